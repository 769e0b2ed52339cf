"""What the end-to-end tests share: running the `conclave` command, clusters, and safetensors files.

Python's standard library alone. CONCLAVE names the command under test; tests/run_python_test.sh sets it.
"""
import atexit
import glob
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request

CONCLAVE = os.environ.get("CONCLAVE", "bazel-bin/cli/conclave")
DEMO_MODEL = os.environ.get("CONCLAVE_DEMO_MODEL", "models/demo")
FULL = os.environ.get("CONCLAVE_TEST_FULL") == "1"
# Where models run: "cuda" sends those tests to a GPU that take it from here.
DEVICE = os.environ.get("CONCLAVE_TEST_DEVICE", "cpu")
# Of shards in processes of their own, where it is another.
SHARD_DEVICE = os.environ.get("CONCLAVE_TEST_SHARD_DEVICE", DEVICE)
# Over which the tests on a GPU go to experts in other processes.
TRANSPORTS = os.environ.get("CONCLAVE_TEST_TRANSPORTS", "grpc,ucx,nccl").split(",")
START_SECONDS_MAX = 120


def clean_environment(**extra):
    """This process's environment without flags of the command under test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CONCLAVE")}
    return {**kept, **extra}


def new_folder():
    """A folder of this test's own, which goes with the process."""
    folder = tempfile.mkdtemp(prefix="conclave-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run(*arguments, timeout=300, environment=None):
    """Runs the command to its end; the result has returncode, stdout and stderr as text."""
    return subprocess.run([CONCLAVE, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          env=environment or clean_environment())


def generate(*arguments, timeout=300):
    """`conclave generate … -o json`, which must succeed: the object that it prints."""
    result = run("generate", "-o", "json", *arguments, timeout=timeout)
    assert result.returncode == 0, f"{arguments}: exit {result.returncode}: {result.stderr}"
    assert result.stdout.count("\n") == 1, result.stdout
    return json.loads(result.stdout)


def is_alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as children:
                found += map(int, children.read().split())
        except OSError:
            pass
    return found


def command_line_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode().split("\0")[:-1]
    except OSError:
        return []


def eventually(condition, seconds=30.0):
    """Polls until `condition()` is true and returns what it returned; the last value where time runs out."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


def quiet_ports():
    """Ports that nobody is given by chance: those that the system hands to connections and to listeners on port 0 lie
    elsewhere. All ports where it hands out nearly all."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    return [port for port in range(10000, 65536) if not first <= port <= last] or list(range(10000, 65536))


RESERVED_PORTS = []  # sockets that say to other tests what this process has taken, until it ends


def free_port():
    """A port that nobody listens on, that stays free while a process that was killed there is started again, and that
    no other test of this machine is given while this process lives."""
    ports = quiet_ports()
    random.shuffle(ports)
    for port in ports:
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0conclave-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("0.0.0.0", port))
        except OSError:
            reservation.close()
            continue
        RESERVED_PORTS.append(reservation)
        return port
    raise AssertionError("every port from 10000 on is taken")


class Cluster:
    """A cluster under `conclave up`, stopped at the end of a `with` block."""

    def __init__(self, *arguments, wait=True, conclave=CONCLAVE):
        self.run_dir = tempfile.mkdtemp(prefix="conclave-test-")
        self.output = open(os.path.join(self.run_dir, "up.out"), "w+")
        self.errors = open(os.path.join(self.run_dir, "up.err"), "w+")
        self.process = subprocess.Popen([conclave, "up", "--run-dir", self.run_dir, *map(str, arguments)],
                                        stdout=self.output, stderr=self.errors, env=clean_environment())
        if wait:
            self.wait_until_ready()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.output.close()
            self.errors.close()
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def text(self, file):
        with open(file.name) as copy:
            return copy.read()

    def ready_line(self):
        lines = [line for line in self.text(self.output).splitlines() if line.startswith("ready: ")]
        return lines[0] if lines else ""

    def wait_until_ready(self):
        eventually(lambda: self.ready_line() or self.process.poll() is not None, START_SECONDS_MAX)
        assert self.ready_line(), f"not ready; exit {self.process.poll()}: {self.text(self.errors)}"

    def processes(self, role=None):
        with open(os.path.join(self.run_dir, "cluster.json")) as file:
            return [p for p in json.load(file) if role in (None, p["role"])]

    def gateway(self):
        return self.processes("gateway")[0]["grpc"]

    def http(self):
        """Where the gateway serves HTTP: (host, port)."""
        host, port = self.processes("gateway")[0]["http"].rsplit(":", 1)
        return host, int(port)

    def stop(self, number=signal.SIGTERM):
        """Sends the signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def end(self, seconds=60):
        """Waits for the command to end on its own; its exit code and error text."""
        code = self.process.wait(timeout=seconds)
        return code, self.text(self.errors)


class Gateway:
    """One more gateway for the attention service of a cluster, with flags of its own; stopped by stop()."""

    def __init__(self, cluster, *flags, ready=True):
        binary = command_line_of(cluster.processes("gateway")[0]["pid"])[0]
        self.folder = tempfile.TemporaryDirectory()
        self.log = os.path.join(self.folder.name, "gateway.log")
        addresses = os.path.join(self.folder.name, "addresses.json")
        # Routers add up: a test that names its own gets that one alone.
        routers = [] if "--router" in flags else ["--router", cluster.processes("router")[0]["grpc"]]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([binary, "--model", DEMO_MODEL, *routers, "--address-file", addresses,
                                             *map(str, flags)], stderr=log, env=clean_environment())
        assert eventually(lambda: os.path.exists(addresses)), open(self.log).read()
        with open(addresses) as file:
            self.addresses = json.load(file)
        if ready:
            assert eventually(self.is_ready), open(self.log).read()

    def http(self):
        host, port = self.addresses["http"].rsplit(":", 1)
        return host, int(port)

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.addresses['http']}/ready", timeout=10) as page:
                return page.status == 200
        except OSError:
            return False

    def stop(self):
        """The exit code after SIGTERM."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.folder.cleanup()


DTYPE_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I32": 4, "I64": 8, "F64": 8, "U8": 1}


def read_header(path):
    """Name → {dtype, shape, data_offsets} of a safetensors file, and where its data starts."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def read_tensor_bytes(path, name):
    header, start = read_header(path)
    begin, end = header[name]["data_offsets"]
    with open(path, "rb") as file:
        file.seek(start + begin)
        return file.read(end - begin)


def read_tensor(path, name):
    """One tensor as a flat tuple of numbers (F32, I32, I64 and F64 only)."""
    data, dtype = read_tensor_bytes(path, name), read_header(path)[0][name]["dtype"]
    letter = {"F32": "f", "I32": "i", "I64": "q", "F64": "d"}[dtype]
    return struct.unpack(f"<{len(data) // DTYPE_SIZES[dtype]}{letter}", data)


def write_tensors(path, tensors):
    """Writes a safetensors file of name: (dtype, shape, bytes)."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            out.write(data)


def copy_model_without(source, target, dropped):
    """Copies a model of one safetensors file, leaving out the tensors for which dropped(name) holds."""
    os.makedirs(target)
    for path in glob.glob(os.path.join(source, "*.json")):
        shutil.copy(path, target)
    path = os.path.join(source, "model.safetensors")
    entries = sorted(read_header(path)[0].items(), key=lambda item: item[1]["data_offsets"])
    write_tensors(os.path.join(target, "model.safetensors"),
                  {name: (entry["dtype"], entry["shape"], read_tensor_bytes(path, name))
                   for name, entry in entries if not dropped(name)})
