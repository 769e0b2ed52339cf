"""The Dockerfile, the compose file, Prometheus' targets and the SageMaker entry point name only what the binaries have,
and fit together. (What runs of them without Docker: package_test, sagemaker_test.)"""
import glob
import os
import re
import unittest

from manifests_test import BINARIES, BINARY_FOLDER, flags_in, flags_of, main, seconds


class Images(unittest.TestCase):
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
        port = lambda service: flags_in(service["command"])["metrics-address"].rsplit(":", 1)[1]
        expected = {f"{name}:{port(service)}" for name, service in self.ours.items()}
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
    main()
