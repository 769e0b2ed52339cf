"""The pods of k8s/overlays/mtls as processes of this machine: the images' binaries with the arguments and the
environment that the manifests give them, each at an address of its own, found by the Services' names, with certificates
as in docs/operations.md. Their probes are asked as the kubelet would, and a question goes through all of them.

Needs what manifests_test needs, grpcio, and a user who may give a process its own hosts.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import manifests_test
import tool_venv
from conclave_test_lib import CONCLAVE, DEMO_MODEL, clean_environment, eventually
from elastic_lib import WITH_HOSTS, names_work

PACKAGES = ["pyyaml==6.0.2", "grpcio==1.71.0"]
OVERLAY = "k8s/overlays/mtls"
# What a machine of two cores needs besides: the last of two equal flags wins.
SMALLER = {"router": ["--kv-memory=64MiB", "--threads=1"], "expert": ["--threads=1"], "gateway": []}


class Pod:
    """One pod of a workload, as a process."""

    def __init__(self, workload, index, address, documents):
        self.template = workload["spec"]["template"]
        self.container = self.template["spec"]["containers"][0]
        self.name, self.index, self.address = f"{workload['metadata']['name']}-{index}", index, address
        self.labels = {**self.template["metadata"]["labels"], "apps.kubernetes.io/pod-index": str(index)}
        self.maps = manifests_test.named(documents, "ConfigMap")

    def environment(self):
        fields = {"metadata.name": self.name, **{f"metadata.labels['{k}']": v for k, v in self.labels.items()}}
        values = {}
        for variable in self.container["env"]:
            source = variable["valueFrom"]
            values[variable["name"]] = fields[source["fieldRef"]["fieldPath"]] if "fieldRef" in source else \
                self.maps[source["configMapKeyRef"]["name"]]["data"][source["configMapKeyRef"]["key"]]
        return values

    def command(self, folder):
        role = self.container["name"]
        certificates = os.path.join(folder, role)
        words = [word.replace("/models/current", DEMO_MODEL).replace("=0.0.0.0:", f"={self.address}:")
                 .replace("=/tls/", f"={certificates}/") for word in self.container["args"]]
        binary = os.path.join(manifests_test.BINARY_FOLDER, manifests_test.BINARIES[role])
        return [*WITH_HOSTS, f"{folder}/hosts", os.path.abspath(binary), *words, *SMALLER[role]]

    def probe(self, kind):
        """Whether the kubelet's question is answered with SERVING (grpc.health.v1.Health/Check, in plaintext)."""
        import grpc
        asked = self.container[kind]["grpc"]
        name = asked["service"].encode()
        with grpc.insecure_channel(f"{self.address}:{asked['port']}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            try:
                return check(b"\x0a" + bytes([len(name)]) + name, timeout=5) == b"\x08\x01"
            except grpc.RpcError:
                return False


class Pods(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="conclave-pods-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        built = subprocess.run([manifests_test.kubectl(), "kustomize", OVERLAY], capture_output=True, text=True,
                               check=True)
        documents = manifests_test.load_documents(built.stdout)
        self.pods = []
        for workload in manifests_test.workloads(documents):
            for index in range(workload["spec"]["replicas"]):
                host = f"127.{10 + os.getpid() % 200}.{os.getpid() // 200 % 250}.{len(self.pods) + 1}"
                self.pods.append(Pod(workload, index, host, documents))
        # The names of Services stand for the pods that they select.
        with open(f"{self.folder}/hosts", "w") as hosts:
            for name, service in manifests_test.named(documents, "Service").items():
                hosts.writelines(f"{pod.address} {name}\n" for pod in self.pods
                                 if service["spec"]["selector"].items() <= pod.labels.items())

    def of(self, role):
        return [pod for pod in self.pods if pod.container["name"] == role]

    def certify(self, role, *names):
        """tls.crt, tls.key and ca.crt as the Secret of the role holds them."""
        made, mounted = os.path.join(self.folder, "certificates"), os.path.join(self.folder, role)
        subprocess.run(["tools/make_certificates.sh", made, *names], check=True, capture_output=True)
        os.makedirs(mounted, exist_ok=True)
        for source, target in (("service.pem", "tls.crt"), ("service.key", "tls.key"), ("ca.pem", "ca.crt")):
            shutil.copy(os.path.join(made, source), os.path.join(mounted, target))

    def log(self, pod):
        with open(f"{self.folder}/{pod.name}.log") as file:
            return file.read()

    def start(self, pods):
        for pod in pods:
            with open(f"{self.folder}/{pod.name}.log", "w") as log:
                pod.process = subprocess.Popen(pod.command(self.folder), stdout=log, stderr=log,
                                               env=clean_environment(**pod.environment()))
            self.addCleanup(pod.process.wait)
            self.addCleanup(pod.process.kill)

    def test_they_find_each_other_answer_their_probes_and_end_with_zero(self):
        for role in ("expert", "router", "gateway"):
            self.certify(role, f"conclave-{role}")
        self.start(self.pods)
        for pod in self.pods:
            self.assertTrue(eventually(lambda: pod.probe("startupProbe"), 90), pod.name + self.log(pod))
            self.assertTrue(pod.probe("readinessProbe"), pod.name)
        self.assertIn("with 4 shards", self.log(self.of("router")[0]))
        for pod in self.of("gateway"):
            answer = subprocess.run([CONCLAVE, "generate", "--gateway", f"{pod.address}:8000", "--prompt", "Once upon",
                                     "--max-tokens", "4"], capture_output=True, text=True, env=clean_environment())
            self.assertEqual(answer.returncode, 0, answer.stderr)
        for pod in self.of("gateway") + self.of("router") + self.of("expert"):
            pod.process.terminate()
            self.assertEqual(pod.process.wait(timeout=60), 0, self.log(pod))

    def test_a_certificate_of_another_name_is_not_taken(self):
        self.certify("expert", "conclave-router")
        self.certify("router", "conclave-router")
        experts, router = self.of("expert"), self.of("router")[0]
        self.start([*experts, router])
        self.assertTrue(eventually(lambda: all(pod.probe("startupProbe") for pod in experts), 90))
        self.assertTrue(eventually(lambda: "does not name conclave-expert" in self.log(router), 30), self.log(router))
        self.assertFalse(router.probe("startupProbe"))


if __name__ == "__main__":
    tools = tool_venv.ensure("pods", PACKAGES)
    if tools is None or not names_work() or manifests_test.kubectl() is None:
        print("skipped: the pods of", OVERLAY, "were not started")
        sys.exit(0)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(tools))):
        os.execv(tools, [tools, *sys.argv])
    unittest.main()
