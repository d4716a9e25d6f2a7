#!/usr/bin/env bash
# Makes .venv-older, the environment in which tests/older embeds with sentence-transformers 5.3 on transformers 4.57.
# Where the package index has torch with CUDA only, name one with CPU wheels first:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tests/older/make_environment.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv .venv-older
echo '*' > .venv-older/.gitignore
.venv-older/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)" sentence-transformers==5.3.0 transformers==4.57.6
