#!/usr/bin/env bash
# Set up SmolLlama, try it, test it.
#
#   bash install.sh               install into the active environment, or into .venv if none is active
#   bash install.sh quickstart    install, then pretrain, fine-tune and align a small Llama on stories, offline, on a CPU
#   bash install.sh test          install the test extras, check the style, run the tests
#   bash install.sh doctor        print what this machine has: Python, torch, device, compiler, memory, disk, accounts
set -euo pipefail
started_in=$PWD
cd "$(dirname "$0")"
activate=""  # what a person types to use .venv, if no environment was active

usage() { sed -n '2,7s/^# \{0,1\}//p' install.sh; }

fail() {
    echo "error: $1" >&2
    exit 2
}

# Print a file of the repository as it is typed in the folder where the person is.
from_there() {
    if [ "$started_in" = "$PWD" ]; then
        printf '%s' "$1"
    else
        printf '%q' "$PWD/$1"
    fi
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }

# conda's `base` is shared by all programs, so it counts as no environment.
has_environment() {
    [ -n "${VIRTUAL_ENV:-}" ] || { [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; }
}

# Print the first Python on the PATH that is new enough.
find_python() {
    local name
    for name in python3 python python3.13 python3.12 python3.11; do
        if command -v "$name" > /dev/null && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 on the PATH ($(python3 --version 2> /dev/null || echo no python3)): install one"
}

# Put .venv first on the PATH, after making it where it is missing or broken.
use_venv() {
    if ! .venv/bin/python -c "" 2> /dev/null; then
        local outer
        outer=$(find_python) || exit 2
        echo "Making .venv with $outer."
        "$outer" -m venv --clear .venv || {
            rm -rf .venv
            fail "$outer cannot make .venv: on Debian and Ubuntu, apt install python3-venv; then try again"
        }
    fi
    is_new_enough .venv/bin/python || fail ".venv has a Python older than 3.11: remove .venv and try again"
    PATH="$PWD/.venv/bin:$PATH"
    export VIRTUAL_ENV="$PWD/.venv"
    activate="source $(from_there .venv/bin/activate)"
}

# Use the active environment, else .venv.
choose_python() {
    if has_environment; then
        is_new_enough python || fail "$(command -v python) is older than Python 3.11: activate a newer environment"
    else
        [ "${CONDA_DEFAULT_ENV:-}" != base ] || echo "conda's base environment stays as it is: using .venv."
        use_venv
    fi
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
    local quiet=""
    [ -t 1 ] || quiet=--quiet
    if command -v uv > /dev/null; then
        echo "Installing with uv: about 0.5 GB to download without a GPU, about 3 GB with one."
        uv pip install $quiet --torch-backend=auto "$1" && return
        echo "uv failed; trying pip."
    fi
    # An interrupted `python -m venv`, and `uv sync`, leave an environment without pip.
    if ! python -m pip --version > /dev/null 2>&1; then
        python -m ensurepip > /dev/null || fail "$(command -v python) has no pip: remove .venv and try again"
    fi
    echo "Installing with pip: up to 3 GB to download on Linux (torch with CUDA), 0.5 GB elsewhere."
    python -m pip install $quiet --disable-pip-version-check "$1"
}

# Report on the active environment or .venv, even if nothing is installed; nothing is changed.
doctor() {
    local python=python
    if ! has_environment; then
        python=.venv/bin/python
        "$python" -c "" 2> /dev/null || python=$(find_python) || exit 2
    fi
    "$python" -m runtime.doctor
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
        if [ -n "$activate" ]; then
            printf 'Type this first in each new terminal:\n\n    %s\n\n' "$activate"
        fi
        echo "Next: bash $(from_there install.sh) quickstart"
        ;;
    doctor) doctor ;;
    quickstart) choose_python && { complete || install .; } && quickstart ;;
    test) choose_python && install ".[test]" && ruff format --check . && ruff check . && python -m pytest -n auto --maxprocesses 4 "${@:2}" ;;
    *) usage >&2; exit 2 ;;
esac
