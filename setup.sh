#!/bin/sh
# Makes .venv from the lock files. Called by make; nothing outside of this folder is changed.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

fail() { echo "setup: $1" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || fail "no $python here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python has no venv; install it (Debian: apt-get install python3-venv)"

echo "setup: installing into .venv (less than a minute, once)"
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; "$python" -m venv .venv; }
rm -f .venv/ready

# uv installs the same files as pip, several at a time. pip takes over where uv has no build or cannot reach the packages.
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
uv() { VIRTUAL_ENV="$PWD/.venv" .venv/bin/python -m uv pip "$@"; }
install() { uv install --quiet "$@" 2>/dev/null || pip install "$@"; }

pip install --require-hashes -r requirements-uv.lock || echo "setup: uv cannot be installed; pip takes a minute longer"
install --require-hashes -r requirements.lock || fail "the lock file's packages could not be installed; is the network there?"
if ! .venv/bin/python -c 'import cv2' 2>/dev/null; then
    # A slim machine has no libGL; the headless build is the same library without windows.
    pip uninstall --yes opencv-contrib-python
    install --require-hashes --no-deps -r requirements-headless.lock
    .venv/bin/python -c 'import cv2' || fail "OpenCV cannot be imported; the line above says why"
    echo "setup: libGL is missing here, so OpenCV's headless build of the same version was installed"
fi
install --no-deps --no-build-isolation --editable . || fail "the package itself could not be installed"
touch .venv/ready
