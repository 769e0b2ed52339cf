#!/usr/bin/env bash
# Runs one Python test of this folder over the whole checkout, which Bazel does not track, and over this build's
# binaries: run_checkout_test.sh tests/NAME.py
set -euo pipefail
export CONCLAVE_BINARIES=$PWD CONCLAVE=$PWD/cli/conclave PYTHONDONTWRITEBYTECODE=1
export HOME=${HOME:-${TEST_TMPDIR:-/tmp}}
cd "$(dirname "$(readlink -f WORKSPACE)")"
export CONCLAVE_CHECKOUT=$PWD CONCLAVE_DEMO_MODEL=$PWD/models/demo
exec python3 "$1" -v
