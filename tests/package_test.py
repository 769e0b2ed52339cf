"""The relocatable tarball: runs from any folder, with no library of ours or of Debian's from outside of it, and its
bill of materials names a Debian package for every library."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

GLIBC = ("linux-vdso", "ld-linux", "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libresolv.so")


class Tarball(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="conclave package ")  # a space in the path must not matter
        made = subprocess.run(["deploy/package/make_tarball.sh", os.path.join(cls.folder, "dist")], capture_output=True,
                              text=True, timeout=300)
        assert made.returncode == 0, made.stderr
        subprocess.run(["tar", "xzf", made.stdout.strip(), "-C", cls.folder], check=True)
        cls.root = glob.glob(os.path.join(cls.folder, "conclave-*"))[0]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_every_library_beyond_glibc_is_from_the_package(self):
        for binary in glob.glob(os.path.join(self.root, "bin", "*")):
            lines = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout.splitlines()
            for line in lines:
                name, _, path = line.strip().partition(" => ")
                path = os.path.realpath(path.split(" (")[0])
                if not os.path.basename(name).startswith(GLIBC):
                    self.assertTrue(path.startswith(os.path.join(self.root, "lib")), f"{binary}: {line}")

    def test_it_answers_from_its_own_folder_with_an_empty_environment(self):
        answer = subprocess.run([os.path.join(self.root, "bin/conclave"), "generate", "--model",
                                 os.path.join(self.root, "share/demo-model"), "--prompt", "Once upon", "--max-tokens",
                                 "4", "-o", "json"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
                                timeout=120)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(len(json.loads(answer.stdout)["ids"]), 4)

    def test_the_bill_of_materials_names_every_binary_and_library(self):
        with open(os.path.join(self.root, "sbom.json")) as file:
            bill = json.load(file)
        names = {component["name"] for component in bill["components"]}
        self.assertLessEqual({"conclave", "gateway", "router_service", "expert_service"}, names)
        for component in bill["components"]:
            if component["type"] == "library":
                self.assertTrue(component["version"] and component["purl"].startswith("pkg:deb/debian/"), component)


if __name__ == "__main__":
    if shutil.which("patchelf") is None:
        sys.exit("package_test: Debian's package patchelf is missing; ./test installs it")
    unittest.main()
