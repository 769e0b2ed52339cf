"""What the chaos tests share: clusters whose processes can be killed and started again one by one at their addresses,
streams whose gaps are measured, a relay that damages what passes, and network namespaces."""
import json
import os
import signal
import shutil
import subprocess
import tempfile
import urllib.request

from conclave_test_lib import CONCLAVE, DEMO_MODEL, DEVICE, SHARD_DEVICE, clean_environment, eventually, free_port

BUILT = os.path.dirname(os.path.dirname(os.path.abspath(CONCLAVE)))
COMPUTE = "f32" if DEVICE == "cpu" else os.environ.get("CONCLAVE_TEST_COMPUTE", "bf16")


class Cluster:
    """Shards, an attention service and a gateway, each a process of its own at an address that stays."""

    def __init__(self, shards=4, replicas=1, transport="grpc", router_flags=(), via=None, hosts=None):
        """via(addresses) gives the addresses at which the router reaches the shards; hosts[i] is where shard i listens:
        (prefix of its command line, host)."""
        self.dir = tempfile.mkdtemp(prefix="conclave-chaos-")
        self.processes, self.arguments = {}, {}
        self.shard_addresses = []
        for i in range(shards):
            prefix, host = hosts[i] if hosts else ((), "127.0.0.1")
            address = f"{host}:{free_port()}"
            self.shard_addresses.append(address)
            flags = [] if transport == "grpc" else [f"--{transport}-address={host}:0"]
            if hosts:  # a network of our own, which nobody else reaches
                flags.append("--allow-insecure")
            self.start(f"expert-{i}", "expert_service", address,
                       f"--shard-index={i}", f"--shard-count={shards}", f"--replicas={replicas}", "--threads=1",
                       f"--compute={COMPUTE}", f"--device={SHARD_DEVICE}", *flags, prefix=prefix)
        reached = via(self.shard_addresses) if via else self.shard_addresses
        self.start("router", "router_service", f"127.0.0.1:{free_port()}", f"--compute={COMPUTE}",
                   f"--device={DEVICE}", "--threads=1", f"--transport={transport}",
                   *(f"--shard={a}" for a in reached), *router_flags)
        self.gateway = f"127.0.0.1:{free_port()}"
        self.start("gateway", "gateway", self.gateway, f"--router={self.address_of('router')}")
        if not eventually(lambda: ask(self, "x", 1)[0] == 0, 60):
            logs = self.log("router") + self.log("gateway")
            self.__exit__()
            raise AssertionError(logs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, name, binary, address, *flags, prefix=()):
        self.arguments[name] = [*prefix, os.path.join(BUILT, binary, binary), f"--name={name}",
                                f"--model={DEMO_MODEL}", f"--grpc-address={address}",
                                f"--address-file={self.dir}/{name}.json", *flags]
        self.launch(name)

    def launch(self, name):
        """Starts the process, for the first time or again, with the same command line."""
        with open(os.path.join(self.dir, name + ".log"), "a") as log:
            self.processes[name] = subprocess.Popen(self.arguments[name], stdout=log, stderr=log,
                                                    env=clean_environment())

    def address_of(self, name):
        return next(a for a in self.arguments[name] if a.startswith("--grpc-address=")).split("=", 1)[1]

    def shard(self, i):
        return self.processes[f"expert-{i}"]

    def kill(self, i, number=signal.SIGKILL):
        self.shard(i).send_signal(number)

    def restart(self, i):
        """The exit code of the process that was there, and a new one in its place."""
        code = self.shard(i).wait(timeout=60)
        self.launch(f"expert-{i}")
        return code

    def log(self, name):
        with open(os.path.join(self.dir, name + ".log")) as log:
            return log.read()

    def metric(self, start):
        """The sum of the router's series whose lines begin with `start`."""
        with open(os.path.join(self.dir, "router.json")) as file:
            address = json.load(file)["metrics"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def wait_until_back(self, i):
        """Asks small questions until the router counts the shard as reachable: it looks when it is asked."""
        up = f'conclave_router_shard_up{{shard="expert-{i}"}}'
        assert eventually(lambda: ask(self, "x", 1)[0] == 0 and self.metric(up) == 1, 60), self.log("router")


def ask(cluster, prompt, tokens):
    """One question: exit code, text, what was written to standard error."""
    result = subprocess.run([CONCLAVE, "generate", "--gateway", cluster.gateway, "--prompt", prompt, "--max-tokens",
                             str(tokens), "--ignore-eos"], capture_output=True, text=True, timeout=120,
                            env=clean_environment())
    return result.returncode, result.stdout, result.stderr


PROMPTS = ["Once upon a time", "def quicksort(", "The theorem of Pythagoras", "2 + 2 =",
           "What is a mixture of experts?", "Who are you?", "A router decides", "In the beginning"]


def run_streams(cluster, tokens, action, prompts=tuple(PROMPTS)):
    """A stream for each prompt; `action` runs when all have begun. Returns their answers (ids, text, hash of all
    logits), the errors, and the longest gap in seconds."""
    client = subprocess.Popen([os.path.join(BUILT, "tests", "stream_client"), f"--gateway={cluster.gateway}",
                               f"--tokens={tokens}", *(f"--prompt={prompt}" for prompt in prompts)],
                              stdout=subprocess.PIPE, text=True, env=clean_environment())
    with client:
        client.stdout.readline()  # "begun"
        action()
        streams = json.loads(client.stdout.read())
    answers = [(stream["ids"], stream["text"], stream["logits_hash"]) for stream in streams]
    return (answers, [stream["error"] for stream in streams if stream["error"]],
            max(stream["longest_gap_ms"] for stream in streams) / 1000)


class Relay:
    """Passes bytes between ports of its own and the targets, in a process of its own. It flips a bit in a share of the
    large pieces, which are activations."""

    def __init__(self, targets, seed=1):
        self.process = subprocess.Popen([os.path.join(BUILT, "tests", "damaging_relay"), f"--seed={seed}",
                                         *(f"--target={target}" for target in targets)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.addresses = json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def damage(self, target, share):
        self.process.stdin.write(f"damage {target} {share}\n")

    def damaged(self, target):
        self.process.stdin.write(f"count {target}\n")
        return int(self.process.stdout.readline())


class Namespaces:
    """One network namespace for each shard, on a bridge of its own; removed at the end."""

    def __init__(self, count):
        self.tag = f"cc{os.getpid() % 100000}"
        self.names = [f"{self.tag}n{i}" for i in range(count)]
        self.hosts = []
        subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        try:
            command("ip", "link", "add", f"{self.tag}b", "type", "bridge")
            command("ip", "addr", "add", f"{subnet}.254/24", "dev", f"{self.tag}b")
            command("ip", "link", "set", f"{self.tag}b", "up")
            for i, name in enumerate(self.names):
                command("ip", "netns", "add", name)
                command("ip", "link", "add", f"{self.tag}v{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
                command("ip", "link", "set", f"{self.tag}v{i}", "master", f"{self.tag}b", "up")
                command("ip", "-n", name, "addr", "add", f"{subnet}.{i + 1}/24", "dev", "eth0")
                command("ip", "-n", name, "link", "set", "eth0", "up")
                command("ip", "-n", name, "link", "set", "lo", "up")
                # UCX tells the other end all our addresses, and those must be reachable from there.
                command("ip", "-n", name, "route", "add", "default", "via", f"{subnet}.254")
                # With an IPC namespace of its own a shard shares no memory with the router: UCX takes the network.
                self.hosts.append((("ip", "netns", "exec", name, "unshare", "--ipc"), f"{subnet}.{i + 1}"))
        except Exception:
            self.close()
            raise

    def rule(self, i, hook, rule):
        """Adds an nftables rule for what comes in ("input") or goes out ("output") of shard i's namespace."""
        nft = ("ip", "netns", "exec", self.names[i], "nft")
        command(*nft, "add table inet chaos")
        command(*nft, f"add chain inet chaos {hook} {{ type filter hook {hook} priority 0; }}")
        command(*nft, f"add rule inet chaos {hook} {rule}")

    def heal(self, i):
        command("ip", "netns", "exec", self.names[i], "nft", "flush ruleset")

    def close(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{self.tag}b"], capture_output=True)


def command(*words):
    subprocess.run(words, check=True, capture_output=True, timeout=20)


def namespaces_work():
    try:
        namespaces = Namespaces(1)
        namespaces.rule(0, "input", "numgen random mod 1000 < 10 drop")
        namespaces.close()
        return True
    except (OSError, subprocess.SubprocessError):
        return False
