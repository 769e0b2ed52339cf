#!/usr/bin/env bash
# Runs one Python test of this folder against the freshly built command: run_python_test.sh tests/NAME.py
set -euo pipefail
here=$PWD
# Bazel hands out links; a checkpoint refuses links that lead out of its folder, so the test gets the folder itself.
demo=$(dirname "$(readlink -f models/demo/config.json)")
export CONCLAVE=$here/cli/conclave CONCLAVE_DEMO_MODEL=$demo PYTHONDONTWRITEBYTECODE=1
export HOME=${HOME:-${TEST_TMPDIR:-/tmp}}
exec python3 "$here/$1" -v
