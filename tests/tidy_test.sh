#!/usr/bin/env bash
# Runs tidy_test.py over the checkout that this test was built from: the WORKSPACE that Bazel links to lies in it.
set -euo pipefail
root=$(dirname "$(readlink -f WORKSPACE)")
exec env PYTHONDONTWRITEBYTECODE=1 python3 "$root/tests/tidy_test.py" "$root"
