#!/bin/sh
# Makes or brings up to date the virtual environment named by the first argument. Instant when there is nothing to do.
set -eu
here=$(dirname "$0")
venv=$1
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -I -S "$here/setup_venv.py" --venv "$venv" --check; then
    exit 0
fi
python=$("$here/find_python.sh")
exec "$python" -I "$here/setup_venv.py" --venv "$venv"
