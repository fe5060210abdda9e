#!/usr/bin/env bash
# Stand-in for Python in tests of install.sh: it runs -c, makes an environment of stubs, and only notes what pip would do.
set -eu
case "$*" in
    "-m venv --clear "*)
        rm -rf "$4"
        mkdir -p "$4/bin"
        cp "$0" "$4/bin/python"
        touch "$4/bin/activate" "$4/bin/pip"
        ;;
    "-m pip --version") [ -e "$(dirname "$0")/pip" ] ;;
    "-m ensurepip") touch "$(dirname "$0")/pip" ;;
    "--version") echo "Python stub" ;;
    "-c "*)
        exec "$REAL_PYTHON" "$@"
        ;;
esac
echo "$0 $*" >> "$CALLS"
