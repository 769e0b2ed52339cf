#!/usr/bin/env bash
# Runs one Python test of this folder against the freshly built command: run_python_test.sh tests/NAME.py
set -euo pipefail
here=$PWD
export CONCLAVE=$here/cli/conclave CONCLAVE_DEMO_MODEL=$here/models/demo PYTHONDONTWRITEBYTECODE=1
export HOME=${HOME:-${TEST_TMPDIR:-/tmp}}
exec python3 "$here/$1" -v
