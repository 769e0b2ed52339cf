"""The relocatable tarball: runs from any folder, with no library of ours or of Debian's from outside of it, and its
bill of materials names a Debian package for every library."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

from conclave_test_lib import eventually

GLIBC = ("linux-vdso", "ld-linux", "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libresolv.so")


class Unpacked(unittest.TestCase):
    folder = root = None  # a folder of ours, and in it what the tarball holds

    @classmethod
    def setUpClass(cls):
        if Unpacked.root is not None:
            return
        Unpacked.folder = tempfile.mkdtemp(prefix="conclave package ")  # a space in the path must not matter
        made = subprocess.run(["deploy/package/make_tarball.sh", os.path.join(cls.folder, "dist")], capture_output=True,
                              text=True, timeout=300)
        assert made.returncode == 0, made.stderr
        subprocess.run(["tar", "xzf", made.stdout.strip(), "-C", cls.folder], check=True)
        Unpacked.root = glob.glob(os.path.join(cls.folder, "conclave-*"))[0]


def tearDownModule():
    shutil.rmtree(Unpacked.folder, ignore_errors=True)


class Tarball(Unpacked):
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
        self.assertLessEqual({"conclave", "gateway", "router_service", "expert_service", "placement_service"}, names)
        for component in bill["components"]:
            if component["type"] == "library":
                self.assertTrue(component["version"] and component["purl"].startswith("pkg:deb/debian/"), component)


class EntryPoints(Unpacked):
    """The images' entry points, with the commands of the compose file, without Docker: each service gets an address of
    its own, a folder like its image's with one binary and the libraries, and a user who owns nothing."""
    USER = 65532 if os.getuid() == 0 else None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.chmod(cls.folder, 0o755)
        with open("deploy/compose/compose.yaml") as file:
            text = file.read()
        cls.commands = {name: [word.strip() for word in words.split(",")] for name, words in re.findall(
            r"^  ([a-z0-9-]+):\n(?:    (?!command).*\n)*    command: \[([^\]]*)\]$", text, re.M)}
        cls.hosts = {name: f"127.{60 + os.getpid() % 150}.{os.getpid() // 150 % 250}.{i}"
                     for i, name in enumerate(cls.commands, 1)}

    def image(self, name):
        """A folder with what the image of the service holds; the path of its entry point."""
        with open("deploy/images/Dockerfile") as file:
            base = name.rsplit("-", 1)[0]
            stage = re.search(rf"^FROM runtime AS {base}\n(.*?)(?=^FROM)", file.read(), re.M | re.S)[1]
        binary = os.path.basename(re.search(r'ENTRYPOINT \["(\S+)"\]', stage)[1])
        folder = os.path.join(self.folder, "image of " + name)
        os.makedirs(os.path.join(folder, "bin"), exist_ok=True)
        shutil.copy(os.path.join(self.root, "bin", binary), os.path.join(folder, "bin"))
        shutil.copytree(os.path.join(self.root, "lib"), os.path.join(folder, "lib"), symlinks=True)
        return os.path.join(folder, "bin", binary)

    def start(self, name):
        words = []
        for word in self.commands[name]:
            word = word.replace("/models/current", os.path.join(self.root, "share/demo-model"))
            word = word.replace("=0.0.0.0:", f"={self.hosts[name]}:")
            for peer, host in self.hosts.items():
                word = word.replace(f"={peer}:", f"={host}:")
            words.append(word)
        with open(os.path.join(self.folder, name + ".log"), "w") as log:
            process = subprocess.Popen([self.image(name), *words], env={"PATH": "/usr/bin:/bin"}, stdout=log,
                                       stderr=log, cwd="/", user=self.USER)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def log(self, name):
        with open(os.path.join(self.folder, name + ".log")) as log:
            return log.read()

    def test_they_serve_a_chat_and_end_with_zero(self):
        self.assertEqual(set(self.commands), {"expert-0", "expert-1", "router", "gateway", "placement"})
        processes = {name: self.start(name) for name in self.commands}
        url = f"http://{self.hosts['gateway']}:8080"

        def ready():
            try:
                return urllib.request.urlopen(url + "/ready", timeout=10).status == 200
            except OSError:
                return False
        self.assertTrue(eventually(ready, 60), "".join(map(self.log, self.commands)))
        request = urllib.request.Request(url + "/v1/chat/completions", json.dumps({
            "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            self.assertEqual(json.load(reply)["usage"]["completion_tokens"], 8)
        for name in ("gateway", "router", "placement", "expert-1", "expert-0"):
            processes[name].terminate()
            self.assertEqual(processes[name].wait(timeout=60), 0, self.log(name))


if __name__ == "__main__":
    if shutil.which("patchelf") is None:
        sys.exit("package_test: Debian's package patchelf is missing; ./test installs it")
    unittest.main()
