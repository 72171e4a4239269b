#!/bin/sh
# Makes .venv with all that pyproject.toml names, unless it is there already; says in one line what is missing.
set -u
venv=${VENV:-.venv}
log=$venv/install.log
wanted="$(cksum < pyproject.toml) in $(pwd -P)"

if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

fail() {
    printf '\n%s\n' "$1" >&2
    exit 1
}

new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer: name another, as in: make run PYTHON=/usr/bin/python3.12"
    python=$PYTHON
else
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if new_enough "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
if [ -z "$python" ]; then
    found=$(python3 --version 2>/dev/null) || found="no python3"
    fail "Python 3.11 or newer is needed, and the PATH has $found: install one, or name it, as in: make run PYTHON=/opt/python3.12/bin/python3"
fi

printf 'Installing into %s with %s (once; a minute or two) ...\n' "$venv" "$("$python" --version)"
"$python" -m venv --clear "$venv" >/dev/null 2>&1 ||
    fail "$python cannot make a virtual environment in $(pwd)/$venv: is the folder writable, and is venv installed (Debian: apt install python3-venv)?"
export PIP_RETRIES="${PIP_RETRIES:-2}" PIP_DISABLE_PIP_VERSION_CHECK=1
if ! "$venv/bin/python" -m pip install --quiet --editable '.[dev]' >"$log" 2>&1; then
    if grep -qiE 'NewConnectionError|Connect(ion)?Timeout|ReadTimeout|name resolution|ProxyError|SSLError|from versions: none' "$log"; then
        fail "The package index cannot be reached: check the network, or name an index, as in: PIP_INDEX_URL=https://example.com/simple make run (pip's words: $log)"
    fi
    tail -n 5 "$log" >&2
    fail "pip could not install what pyproject.toml names: see $log"
fi
printf '%s' "$wanted" >"$venv/installed"
