"""Python packages that a test needs beyond the standard library: a virtual environment, made once and kept.

    python = tool_venv.ensure("manifests", ["pyyaml"])     # its interpreter, or None where packages cannot be had

Kept in CONCLAVE_TEST_TOOLS or a folder of the temporary directory, apart from the checkout. A lock lets several tests
ask at once. Where no package index can be reached the caller says what it skips.
"""
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile

INSTALL_SECONDS_MAX = 300


def tools_folder():
    folder = os.environ.get("CONCLAVE_TEST_TOOLS") or os.path.join(
        tempfile.gettempdir() if "TEST_TMPDIR" not in os.environ else "/tmp", f"conclave-test-tools-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def ensure(name, packages):
    """The interpreter of an environment that holds `packages`, or None with a line that says why not."""
    key = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:12]
    folder = os.path.join(tools_folder(), f"{name}-{key}")
    python, done = os.path.join(folder, "bin", "python"), os.path.join(folder, "complete")
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(done):
            return python
        for command in ([sys.executable, "-m", "venv", "--clear", folder],
                        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]):
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"skipped: {' '.join(command[:3])}: {error}")
                return None
            if result.returncode != 0:
                print(f"skipped: cannot install {' '.join(packages)}: {result.stderr.strip().splitlines()[-1:]}")
                return None
        open(done, "w").close()
        return python
