"""Shell scripts pass shellcheck (Debian's package, which ./test installs), and gpu_checks.py counts what it runs."""
import os
import shutil
import subprocess
import sys
import tempfile
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


class GpuChecks(unittest.TestCase):
    """With programs that stand in for the real ones and a driver that lists one GPU."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.program("driver/nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
        for kernels in ("grouped_ffn", "bf16_grouped_ffn", "mla_decode", "dense_linear"):
            self.program(f"moe/kernels/cuda/{kernels}_bench", f'echo {kernels} "$@"')

    def program(self, path, line):
        path = os.path.join(self.folder.name, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{line}\n")
        os.chmod(path, 0o755)

    def run_checks(self, *flags, driver=True):
        path = (os.path.join(self.folder.name, "driver") + ":" if driver else "") + "/usr/bin:/bin"
        return subprocess.run([sys.executable, os.path.join(ROOT, "tests/gpu_checks.py"), "--binaries",
                               self.folder.name, *flags], capture_output=True, text=True, timeout=60,
                              env={"PATH": path})

    def test_what_passes_and_what_fails_is_counted(self):
        result = self.run_checks("--only", "kernels:", "--seed", "7")
        self.assertEqual((result.returncode, result.stdout.splitlines()[-1]), (0, "4 passed, 0 failed"), result)
        self.program("moe/kernels/cuda/mla_decode_bench", 'echo row 3 is wrong, seed "$@"; exit 1')
        logs = os.path.join(self.folder.name, "logs")
        result = self.run_checks("--only", "kernels:", "--seed", "7", "--logs", logs)
        self.assertEqual((result.returncode, result.stdout.splitlines()[-1]), (1, "3 passed, 1 failed"), result)
        self.assertIn("| row 3 is wrong, seed 7 check", result.stdout)
        self.assertEqual(len(os.listdir(logs)), 4)

    def test_what_is_missing_is_named(self):
        for flags, driver, words in [((), False, "no NVIDIA GPU here"), ((), True, "row_ops_test is not built"),
                                     (("--only", "shards,"), True, "gateway/gateway is not built"),
                                     (("--only", "kernel panic"), True, "no check's name holds --only kernel panic")]:
            result = self.run_checks(*flags, driver=driver)
            self.assertEqual(result.returncode, 1)
            self.assertIn(words, result.stderr)


if __name__ == "__main__":
    if shutil.which("shellcheck") is None:
        sys.exit("scripts_test: Debian's package shellcheck is missing; ./test installs it")
    unittest.main()
