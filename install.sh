#!/usr/bin/env bash
# Set up SmolLlama, try it, test it.
#
#   bash install.sh               install into the active environment, or into .venv if none is active
#   bash install.sh quickstart    install, then pretrain a small Llama on the built-in stories, offline, on a CPU
#   bash install.sh test          install the test extras, check the style, run the tests
set -euo pipefail
cd "$(dirname "$0")"

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }

choose_python() {
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        local found
        found=$(command -v python3 || command -v python) || { echo "error: no python3 on the PATH: install Python 3.11 or newer" >&2; exit 2; }
        [ -x .venv/bin/python ] || "$found" -m venv .venv
        PATH="$PWD/.venv/bin:$PATH"
    fi
    python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "error: $(command -v python) is older than Python 3.11: activate a newer environment" >&2; exit 2; }
}

install() {
    choose_python
    python -m pip install --quiet --disable-pip-version-check "$1"
}

quickstart() {
    local run=checkpoints/P-stories
    python data.py --stories
    if [ -f "$run/latest" ]; then
        python trainer.py --train P --preset stories --resume
    else
        python trainer.py --train P --preset stories
    fi
    python evaluation.py --model "$run" --dataset stories
    local prompt
    for prompt in "Once upon a time" "Once, there was a" "Tom wanted"; do
        printf '\n--- %s\n%s' "$prompt" "$prompt"
        python inference_sft.py --model "$run" --prompt "$prompt" --max_length 240 --temperature 0.3 --seed 1 2>/dev/null
    done
    printf '\nLoss curve: %s\nModel:      %s\nMore text:  python inference_sft.py --model %s --prompt "The little fox"\n' \
        "$run/loss_curves.png" "$run/$(cat "$run/latest")" "$run"
}

case "${1:-}" in
    "") install . && printf 'Installed. Next: bash install.sh quickstart\n' ;;
    quickstart) install . && quickstart ;;
    test) install ".[test]" && ruff check . && python -m pytest "${@:2}" ;;
    *) usage >&2; exit 2 ;;
esac
