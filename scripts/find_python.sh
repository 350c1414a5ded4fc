#!/bin/sh
# Prints the path of a Python that the project runs on (3.11 or 3.12). $PYTHON, if set, is the only candidate.
# A name on PATH is not enough: version managers put names there that run nothing. So every candidate is run.
seen=""
for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
    found=$("$name" -I -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null) || continue
    case $found in
        "3.11 "* | "3.12 "*) echo "${found#* }"; exit 0 ;;
    esac
    seen="$seen
  $name is Python ${found%% *} (${found#* })"
done
{
    echo "mgrd needs Python 3.11 or 3.12, and found neither."
    [ -z "$seen" ] || echo "Found:$seen"
    echo "Install one (Debian and Ubuntu: apt-get install python3.11 python3.11-venv; without root: pyenv, uv or conda),"
    echo "or name one: make venv PYTHON=/path/to/python3.11"
} >&2
exit 1
