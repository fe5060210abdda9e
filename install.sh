#!/usr/bin/env bash
# Set up SmolLlama, try it, test it.
#
#   bash install.sh               install into the active environment, or into .venv if none is active
#   bash install.sh quickstart    install, then pretrain, fine-tune and align a small Llama on stories, offline, on a CPU
#   bash install.sh test          install the test extras, check the style, run the tests
#   bash install.sh doctor        print what this machine has: Python, torch, device, compiler, memory, disk, accounts
set -euo pipefail
cd "$(dirname "$0")"
activate=""  # what a person types to use .venv, where this script had to make one

usage() { sed -n '2,7s/^# \{0,1\}//p' install.sh; }

# Use the active environment, else .venv. conda's `base` is shared by all programs, so it counts as none.
choose_python() {
    if [ -z "${VIRTUAL_ENV:-}" ] && { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; }; then
        local outer
        outer=$(command -v python3 || command -v python) || {
            echo "error: no python3 on the PATH: install Python 3.11, 3.12 or 3.13" >&2
            exit 2
        }
        [ -x .venv/bin/python ] || "$outer" -m venv .venv
        PATH="$PWD/.venv/bin:$PATH"
        export VIRTUAL_ENV="$PWD/.venv"
        activate="source .venv/bin/activate"
    fi
    python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $(command -v python) is older than Python 3.11: activate a newer environment" >&2
        exit 2
    }
}

# Check that all packages are installed as pyproject.toml pins them: then no network is needed.
complete() {
    python - <<'END'
import sys, tomllib
from importlib.metadata import PackageNotFoundError, version
pins = (pin.split("==") for pin in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"])
try:
    sys.exit(any(version(name).split("+")[0] != pinned for name, pinned in pins))
except PackageNotFoundError:
    sys.exit(1)
END
}

# uv picks the build of torch for this machine; pip on Linux always brings the CUDA build.
install() {
    if command -v uv > /dev/null; then
        echo "Installing with uv: about 0.5 GB to download without a GPU, about 3 GB with one."
        uv pip install --quiet --torch-backend=auto "$1" && return
        echo "uv failed; trying pip."
    fi
    echo "Installing with pip: up to 3 GB to download on Linux (torch with CUDA), 0.5 GB elsewhere."
    python -m pip install --quiet --disable-pip-version-check "$1"
}

# Run a script of this small model: two processes with half of the cores each are faster than one with all of them.
# With a GPU, and elsewhere than on Linux, in one process.
fast() {
    if [ "$(uname)" = Linux ] && [ "$(nproc)" -ge 2 ] && ! command -v nvidia-smi > /dev/null; then
        OMP_NUM_THREADS=$(($(nproc) / 2)) python -m torch.distributed.run --standalone --nproc_per_node=2 "$@"
    else
        python "$@"
    fi
}

# Train a preset, or resume its run.
stage() {
    local run=checkpoints/$1
    if [ -f "$run/latest" ]; then
        fast trainer.py --preset "$2" --resume
    else
        fast trainer.py --preset "$2" "${@:3}"
    fi
}

quickstart() {
    local base=checkpoints/P-stories sft=checkpoints/S-stories_instruct dpo=checkpoints/D-stories_preference
    python data.py --stories
    stage P-stories stories
    stage S-stories_instruct stories-instruct --init_from "$base"
    stage D-stories_preference stories-preference --init_from "$sft"
    printf '\nOn held-out combinations and phrasings:\n\n'
    fast evaluation.py --model "$base" "$sft" "$dpo" --dataset stories_preference --reference "$sft" --suite
    printf '\nWhat the aligned model replies:\n\n'
    python -m stories.demo --model "$dpo"
    printf '\nLoss curves: %s\n' "$(python -m training.plots --runs "$base" "$sft" "$dpo" --to checkpoints/quickstart.png)"
    [ -z "$activate" ] || printf 'Activate:    %s\n' "$activate"
    printf 'Ask:         python inference_sft.py --model dpo --max_length 220 --prompt "%s"\n' \
        "Tell a bedtime story about Leo and a boat."
}

case "${1:-}" in
    "")
        choose_python
        install .
        echo "Installed."
        [ -z "$activate" ] || printf 'All commands of the README want this first, in each new terminal:\n\n    %s\n\n' "$activate"
        echo "Next: bash install.sh quickstart"
        ;;
    doctor) choose_python && python -m runtime.doctor ;;
    quickstart) choose_python && { complete || install .; } && quickstart ;;
    test) choose_python && install ".[test]" && ruff format --check . && ruff check . && python -m pytest -n auto --maxprocesses 4 "${@:2}" ;;
    *) usage >&2; exit 2 ;;
esac
