"""Shell scripts pass shellcheck (Debian's package, which ./test installs)."""
import os
import shutil
import subprocess
import sys
import unittest

ROOT = os.environ.get("CONCLAVE_CHECKOUT", os.getcwd())
SKIPPED = {".git", "shared"}


def scripts():
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in SKIPPED and not n.startswith("bazel-")]
        for name in files:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as file:
                first = file.readline(80)
            if first.startswith(b"#!") and first.split()[-1].rsplit(b"/", 1)[-1] in (b"sh", b"bash"):
                yield os.path.relpath(path, ROOT)


class Scripts(unittest.TestCase):
    def test_all_pass_shellcheck(self):
        found = sorted(scripts())
        self.assertIn("deploy/sagemaker/serve", found)
        self.assertIn("tools/make_certificates.sh", found)
        result = subprocess.run(["shellcheck", *found], cwd=ROOT, capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_it_sees_what_is_wrong(self):
        wrong = subprocess.run(["shellcheck", "-"], input="#!/bin/sh\nrm -rf $1/*\n", capture_output=True, text=True)
        self.assertEqual(wrong.returncode, 1, wrong.stdout)


if __name__ == "__main__":
    if shutil.which("shellcheck") is None:
        sys.exit("scripts_test: Debian's package shellcheck is missing; ./test installs it")
    unittest.main()
