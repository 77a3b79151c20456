#!/usr/bin/env bash
# All that is measured on a GPU, in one command: benchmarks/gpu.sh [--reviews FOLDER]. It leaves one file,
# benchmarks/results/gpu_CARD.json. Without reviews and weights at hand it makes up both, and the file says so.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x $python ] || python=python3
exec $python benchmarks/gpu.py "$@"
