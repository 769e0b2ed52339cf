"""Clusters whose processes come and go: each has an address of its own, a new one whenever it starts, as pods have, and
finds the others through a DNS name (names_work()) or a list in a file."""
import json
import os
import re
import subprocess
import tempfile
import threading
import urllib.request

import chaos_lib
from conclave_test_lib import CONCLAVE, DEMO_MODEL, clean_environment, eventually, free_port

SHARDS_NAME, ROUTERS_NAME = "conclave-expert", "conclave-router"
# What a process sees as /etc/hosts: a file of ours, in a mount namespace of its own.
WITH_HOSTS = ("unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /etc/hosts; exec "$@"')


def names_work():
    """Whether this user may give a process its own /etc/hosts."""
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write("127.9.9.9 conclave-probe\n")
        hosts.flush()
        try:
            found = subprocess.run([*WITH_HOSTS, hosts.name, "getent", "hosts", "conclave-probe"], capture_output=True,
                                   text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return "127.9.9.9" in found.stdout


class ElasticCluster(chaos_lib.Cluster):
    """Names of processes: expert-0 …, router-0 …, gateway-0 …."""

    def __init__(self, shards=2, shares=2, routers=1, replicas=1, by_name=False, router_flags=(), gateway_flags=()):
        self.dir = tempfile.mkdtemp(prefix="conclave-elastic-")
        self.processes, self.arguments, self.hosts_given = {}, {}, 0
        self.by_name, self.shares, self.replicas = by_name, shares, replicas
        self.router_flags, self.gateway_flags = router_flags, gateway_flags
        self.ports = {role: free_port() for role in ("expert", "router", "gateway")}
        self.addresses = {"expert": {}, "router": {}, "gateway": {}}
        self.generation = ""  # "_next": binaries that stand in for the next release
        try:
            for i in range(shards):
                self.add("expert", i)
            self.publish()
            for i in range(routers):
                self.add("router", i)
            self.publish()
            self.add("gateway", 0)
            assert eventually(lambda: self.ask("x", 1)[0] == 0, 60), self.log("router-0") + self.log("gateway-0")
        except BaseException:
            self.__exit__()
            raise

    def new_host(self):
        self.hosts_given += 1
        return f"127.{20 + os.getpid() % 200}.{os.getpid() // 200 % 250}.{self.hosts_given}"

    def target(self, role, name):
        return f"dns:///{name}:{self.ports[role]}" if self.by_name else f"file://{self.dir}/{role}s"

    def add(self, role, i):
        """Starts the process at an address of its own, which nobody is told of before publish()."""
        address = f"{self.new_host()}:{self.ports[role]}"
        self.addresses[role][i] = address
        flags = ["--metrics-address=127.0.0.1:0"]
        if role == "expert":
            binary = "expert_service"
            flags += [f"--shard-index={i}", f"--shard-count={self.shares}", f"--replicas={self.replicas}",
                      "--threads=1", "--compute=f32"]
        elif role == "router":
            binary = "router_service"
            flags += [f"--shard={self.target('expert', SHARDS_NAME)}", "--threads=1", "--compute=f32",
                      "--discovery-interval=100ms", *self.router_flags]
        else:
            binary = "gateway"
            flags += [f"--router={self.target('router', ROUTERS_NAME)}", "--discovery-interval=100ms",
                      "--http-address=127.0.0.1:0", *self.gateway_flags]
        prefix = (*WITH_HOSTS, f"{self.dir}/hosts") if self.by_name and role != "expert" else ()
        self.start(f"{role}-{i}", binary, address, *flags, prefix=prefix)

    def start(self, name, binary, address, *flags, prefix=()):
        self.arguments[name] = [*prefix, os.path.join(chaos_lib.BUILT, binary, binary + self.generation),
                                f"--name={name}", f"--model={DEMO_MODEL}", f"--grpc-address={address}",
                                f"--address-file={self.dir}/{name}.json", *flags]
        self.launch(name)

    def publish(self, **hidden):
        """Tells everybody who is there, but for hidden[role], a list of numbers."""
        listed = {role: [a for i, a in sorted(self.addresses[role].items()) if i not in hidden.get(role, ())]
                  for role in self.addresses}
        for role, addresses in listed.items():
            path = os.path.join(self.dir, role + "s")
            with open(path + ".new", "w") as file:
                file.write("".join(a + "\n" for a in addresses))
            os.replace(path + ".new", path)
        # In place, since a mount shows the file and not its name.
        names = {"expert": SHARDS_NAME, "router": ROUTERS_NAME, "gateway": "conclave-gateway"}
        with open(os.path.join(self.dir, "hosts"), "w") as file:
            file.write("127.0.0.1 localhost\n" + "".join(
                f"{a.split(':')[0]} {names[role]}\n" for role, addresses in listed.items() for a in addresses))

    def stop(self, role, i):
        """SIGTERM; the exit code."""
        process = self.processes[f"{role}-{i}"]
        process.terminate()
        code = process.wait(timeout=60)
        del self.addresses[role][i]
        return code

    def facts(self, name):
        """What the process says of its addresses, once it listens."""
        path = os.path.join(self.dir, name + ".json")
        assert eventually(lambda: os.path.exists(path), 30), self.log(name)
        with open(path) as file:
            return json.load(file)

    def wait_until_ready(self, name, since=0):
        """Until the process says in its log, from the letter `since` on, that it takes calls."""
        ready = re.compile(r"ready: \d+ experts|serving \S+ at ")
        assert eventually(lambda: ready.search(self.log(name)[since:]), 60), self.log(name)

    def wait_until_used(self, i):
        """Until the gateway uses the attention service."""
        series = 'router_up{router="%s"} 1' % self.addresses["router"][i]
        assert eventually(lambda: series in self.metrics("gateway-0"), 30), self.log("gateway-0")

    def metrics(self, name):
        with urllib.request.urlopen(f"http://{self.facts(name)['metrics']}/metrics", timeout=10) as page:
            return page.read().decode()

    def ask(self, prompt, tokens, gateway=None):
        """Exit code, and what `conclave generate -o json` printed, or the error."""
        if gateway is None:
            gateway = sorted(self.addresses["gateway"])[0]
        result = subprocess.run([CONCLAVE, "generate", "--gateway", self.addresses["gateway"][gateway], "--prompt",
                                 prompt, "--max-tokens", str(tokens), "--ignore-eos", "--hash-logits", "-o", "json"],
                                capture_output=True, text=True, timeout=120, env=clean_environment())
        if result.returncode != 0:
            return result.returncode, result.stderr
        return 0, json.loads(result.stdout)


class Stream:
    """One long answer that is under way once this is made."""

    def __init__(self, gateway, prompt, tokens):
        self.process = subprocess.Popen([CONCLAVE, "generate", "--gateway", gateway, "--prompt", prompt, "--max-tokens",
                                         str(tokens), "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=clean_environment())
        self.begun = os.read(self.process.stdout.fileno(), 65536)

    def end(self):
        """Exit code, the whole text, and what was written to standard error."""
        rest, errors = self.process.communicate(timeout=60)
        return self.process.returncode, (self.begun + rest).decode(), errors.decode()


class Load:
    """Questions without a pause from `threads` clients, each to the end; whatever is not as at first is a failure."""

    def __init__(self, cluster, prompts, tokens, threads):
        self.cluster, self.tokens, self.prompts = cluster, tokens, prompts
        self.expected = {prompt: self.outcome(prompt) for prompt in prompts}
        self.failures, self.answers, self.ending = [], 0, False
        self.gateway = sorted(cluster.addresses["gateway"])[0]  # where new questions go
        self.asked = [None] * threads  # each client's gateway
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(threads)]

    def outcome(self, prompt, gateway=None):
        code, answer = self.cluster.ask(prompt, self.tokens, gateway)
        return (code, answer) if code else (0, (answer["ids"], answer.get("logits_hash")))

    def run(self, client):
        number = client
        while not self.ending:
            prompt = self.prompts[number % len(self.prompts)]
            number += 1
            self.asked[client] = self.gateway
            outcome = self.outcome(prompt, self.asked[client])
            with self.lock:
                self.answers += 1
                if outcome != self.expected[prompt]:
                    self.failures.append((prompt, outcome))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending = True
        for thread in self.threads:
            thread.join()

    def move_to(self, gateway):
        """Sends new questions there, and waits until no client is at another one: what a preStop pause is for."""
        self.gateway = gateway
        assert eventually(lambda: all(asked == gateway for asked in self.asked), 60), self.asked

    def wait_for(self, answers):
        """Until so many more answers have come."""
        wanted = self.answers + answers
        assert eventually(lambda: self.answers >= wanted, 60), f"{self.answers} of {wanted}: {self.failures[:3]}"
