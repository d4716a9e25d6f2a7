#!/bin/sh
# Everything that only a GPU can show, in one run of a few minutes; see docs/gpu.md.
#     benchmarks/gpu.sh [--out DIR] [--base MODEL] [--tiny]
set -e
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m benchmarks.gpu "$@"
