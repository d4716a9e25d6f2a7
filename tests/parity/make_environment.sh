#!/usr/bin/env bash
# Makes .venv-mergekit, the environment in which tests/parity runs mergekit. It is kept apart from the project's own.
# Where the package index has torch with CUDA only, name one with CPU wheels first:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tests/parity/make_environment.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv .venv-mergekit
echo '*' > .venv-mergekit/.gitignore
.venv-mergekit/bin/python -m pip install --quiet --constraint constraints.txt torch
.venv-mergekit/bin/python -m pip install --quiet --constraint constraints.txt mergekit==0.1.5
