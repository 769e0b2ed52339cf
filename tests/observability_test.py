"""What operators see: metrics, dashboards, rules and alerts, by a real Prometheus over a local cluster under load.

Needs Debian's package `prometheus` (prometheus and promtool), which ./test installs.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

from conclave_test_lib import CONCLAVE, DEMO_MODEL, Cluster, clean_environment, eventually, free_port
from elastic_lib import ElasticCluster, Load

ROOT = os.environ.get("CONCLAVE_CHECKOUT", os.getcwd())
sys.path.insert(0, os.path.join(ROOT, "tools/observability"))
import generate as generator  # noqa: E402
import metrics_in_code  # noqa: E402
from dashboards import DASHBOARDS, RATE  # noqa: E402
from rules import ALERTS, RECORDING  # noqa: E402

# What Prometheus itself makes.
FOREIGN_METRICS = {"up"}


def metric_names(expression):
    bare = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^\]]*\]', "", expression)
    return {name for name in re.findall(r"\b(conclave_\w+|up)\b", bare)}


def all_expressions():
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard.panels:
            for expression, _ in panel.queries:
                yield f"dashboard {name}, {panel.title}", expression
    for name, expression in RECORDING:
        yield f"rule {name}", expression
    for name, expression, *_ in ALERTS:
        yield f"alert {name}", expression


def always_true(expression):
    """An alert's expression with its thresholds taken away: it answers whether the data behind it is there."""
    return re.sub(r"(==|>) [0-9.]+(?= |$)", ">= -1e9", expression)


class Sources(unittest.TestCase):
    def test_generated_files_are_those_of_their_descriptions(self):
        for path, content in generator.files().items():
            with open(os.path.join(ROOT, path)) as file:
                self.assertEqual(file.read(), content, f"{path}: run tools/observability/generate.py")

    def test_expressions_name_metrics_that_the_code_has(self):
        known = FOREIGN_METRICS | {s for metric in metrics_in_code.find(ROOT) for s in metric.series()}
        for where, expression in all_expressions():
            self.assertLessEqual(metric_names(expression), known, where)

    def test_recorded_names_that_are_used_are_recorded(self):
        recorded = {name for name, _ in RECORDING}
        for where, expression in all_expressions():
            used = set(re.findall(r"\bconclave:[\w:]+", expression))
            self.assertLessEqual(used, recorded, where)

    def test_every_alert_has_a_runbook_and_a_unit_test(self):
        with open(os.path.join(ROOT, "deploy/prometheus/rules_test.yaml")) as file:
            unit_tests = file.read()
        for name, *_ in ALERTS:
            self.assertTrue(os.path.exists(os.path.join(ROOT, f"docs/runbooks/{name}.md")), name)
            self.assertIn(f"alertname: {name}\n", unit_tests, name)

    def test_promtool_accepts_the_rules_and_their_tests_pass(self):
        for command in (["check", "rules", "deploy/prometheus/rules.yaml"],
                        ["test", "rules", "deploy/prometheus/rules_test.yaml"]):
            result = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


# Durations that the live tests can wait for: the rules stay the same but for these.
SHORTER = {"1m": "1s", "2m": "1s", "5m": "4s", "10m": "4s", "15m": "1s", "30m": "5s", "1h": "6s", "6h": "7s",
           "1d": "30s", "30d": "30s"}


class Prometheus:
    """A Prometheus that scrapes a cluster each second, with our rules in their shorter form.

    metrics(role): where the processes of a role show their metrics.
    """

    def __init__(self, metrics):
        self.folder = tempfile.mkdtemp(prefix="conclave-prometheus-")
        self.port = free_port()
        jobs = {f"conclave-{role}": role for role in ("gateway", "router", "expert", "placement")}
        scrapes = [{"job_name": job, "static_configs": [{"targets": metrics(role)}]} for job, role in jobs.items()]
        self.write("rules.yaml", {"groups": generator.rule_groups(SHORTER)})
        self.write("prometheus.yml", {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                                      "rule_files": ["rules.yaml"], "scrape_configs": scrapes})
        self.log = open(os.path.join(self.folder, "log"), "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log)

    def write(self, name, value):
        with open(os.path.join(self.folder, name), "w") as file:
            json.dump(value, file)

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)["data"]
        except OSError:
            return {}

    def query(self, expression):
        return self.get("query", query=expression).get("result", [])

    def alerts(self):
        """The names of those that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts").get("alerts", [])
                if alert["state"] == "firing"}

    def is_quiet(self, alert):
        """Whether it comes about that the alert does not fire: on a busy machine a scrape may be late, and a process
        count as down for a moment."""
        def quiet():
            answer = self.get("alerts")
            return "alerts" in answer and not any(
                one["labels"]["alertname"] == alert and one["state"] == "firing" for one in answer["alerts"])
        return eventually(quiet, 60)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class LiveCluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        every = "per-expert-metrics=true"
        cls.cluster = Cluster("--model", DEMO_MODEL, "--shards", 3, "--router-flags", every, "--expert-flags", every,
                              "--rebalance")
        cls.prometheus = Prometheus(lambda role: [p["metrics"] for p in cls.cluster.processes(role)])
        cls.busy = True
        cls.load = threading.Thread(target=cls.keep_busy)
        cls.load.start()

    @classmethod
    def tearDownClass(cls):
        cls.busy = False
        cls.load.join()
        cls.prometheus.stop()
        cls.cluster.__exit__()

    @classmethod
    def keep_busy(cls):
        for number in range(10_000):
            if not cls.busy:
                return
            subprocess.run([CONCLAVE, "generate", "--gateway", cls.cluster.gateway(), "--prompt", f"Once {number}",
                            "--max-tokens", "32"], capture_output=True, timeout=60)

    def scrape(self, process):
        with urllib.request.urlopen(f"http://{process['metrics']}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def test_1_every_query_has_an_answer(self):
        for where, expression in all_expressions():
            if where.startswith("alert "):
                expression = always_true(expression)
            expression = expression.replace(RATE, "10s").replace("$layer", ".*").replace("$price_per_process_hour", "1")
            self.assertTrue(eventually(lambda: self.prometheus.query(expression), 30), f"{where}: {expression}")

    def test_2_metrics_are_well_formed_and_all_are_in_the_docs(self):
        seen = set()
        for process in self.cluster.processes():
            text = self.scrape(process)
            seen |= set(re.findall(r"^# TYPE (conclave_\w+) ", text, re.M))
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            # promtool also has opinions on names of foreign collectors; ours must pass.
            ours = [line for line in checked.stderr.splitlines() if line.startswith("conclave_")]
            self.assertEqual(ours, [], process["name"])
        documented = {metric.name for metric in metrics_in_code.find(ROOT)}
        with_tls_alone = {name for name in documented if name.startswith("conclave_tls_")}  # http_test sees those
        self.assertEqual(seen, documented - with_tls_alone,
                         "documented is what the code declares, seen is what some process shows")

    def test_2_top_shows_every_shard_and_layer_at_work(self):
        def top():
            shown = subprocess.run([CONCLAVE, "top", "--run-dir", self.cluster.run_dir, "-o", "json"],
                                   capture_output=True, text=True, timeout=60)
            self.assertEqual(shown.returncode, 0, shown.stderr)
            return json.loads(shown.stdout)
        # It shows a second or so, in which a busy machine's client may ask nothing.
        top = eventually(lambda: next((t for t in [top()] if any(shard["rows"] > 0 for shard in t["shards"])), None))
        self.assertIsNotNone(top, "no shard has worked")
        self.assertEqual([shard["name"] for shard in top["shards"]], ["expert-0", "expert-1", "expert-2"])
        for layer in top["layers"]:
            self.assertEqual(len(layer["tokens"]), 32)
            self.assertGreater(layer["imbalance"], 1)

    def test_3_no_alert_is_there_before_a_shard_dies_and_its_alert_after(self):
        self.assertTrue(self.prometheus.is_quiet("ConclaveExpertShardDown"))
        os.kill(self.cluster.processes("expert")[2]["pid"], 9)
        self.assertTrue(eventually(lambda: "ConclaveExpertShardDown" in self.prometheus.alerts(), 30))


class Alerts(unittest.TestCase):
    """Each fault is made, and its alert fires: the shards are found by a list, so that two of them can be lost to
    it."""

    def setUp(self):
        self.cluster = ElasticCluster(shards=3, shares=3, router_flags=["--max-running=2", "--max-queued=500",
                                                                        "--shard-grace=500ms"])
        self.addCleanup(self.cluster.__exit__)
        self.prometheus = Prometheus(lambda role: [self.cluster.facts(name)["metrics"]
                                                   for name in self.cluster.processes if name.startswith(role)])
        self.addCleanup(self.prometheus.stop)

    def fires(self, *alerts):
        return eventually(lambda: set(alerts) <= self.prometheus.alerts(), 60)

    def clients(self, count, tokens, seconds_between):
        """So many clients, one after another, that ask for `tokens` each; killed at the end of the test."""
        for number in range(count):
            client = subprocess.Popen([CONCLAVE, "generate", "--gateway", self.cluster.addresses["gateway"][0],
                                       "--prompt", f"Once {number}", "--max-tokens", str(tokens), "--ignore-eos"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
            self.addCleanup(client.wait)
            self.addCleanup(client.kill)
            yield client
            time.sleep(seconds_between)

    def test_each_fault_raises_its_alert(self):
        with Load(self.cluster, ["Once upon a time", "def quicksort("], 64, threads=2) as load:
            self.assertTrue(eventually(lambda: self.prometheus.query("conclave:shard_busy:corrected_5m"), 30))
            self.assertTrue(self.prometheus.is_quiet("ConclaveShardImbalance"))
            # The name of the shards loses two of three: one does all the work, though all are there.
            self.cluster.publish(expert=(1, 2))
            self.assertTrue(self.fires("ConclaveShardImbalance"),
                            self.prometheus.query("conclave:shard_imbalance:ratio_5m"))
            self.cluster.publish()
            # A shard dies: calls to it fail, and others do its work.
            self.assertTrue(self.prometheus.is_quiet("ConclaveShardFailures"))
            self.assertTrue(eventually(lambda: "in use: 3, before: 1" in self.cluster.log("router-0"), 30))
            self.cluster.processes["expert-2"].kill()
            self.assertTrue(self.fires("ConclaveShardFailures"))
        self.assertEqual(load.failures, [])
        # More and more clients, of whom two are served at a time.
        self.assertTrue(self.prometheus.is_quiet("ConclaveErrorBudgetBurnFast"))
        self.assertTrue(any("ConclaveQueueGrowing" in self.prometheus.alerts() for _ in self.clients(200, 1500, 0.2)),
                        self.prometheus.query("conclave_router_requests_queued"))
        # The only attention service dies: whoever asks is told so.
        self.cluster.processes["router-0"].kill()
        self.assertTrue(eventually(lambda: self.cluster.ask("x", 1)[0] != 0 and {
            "ConclaveErrorBudgetBurnFast", "ConclaveErrorBudgetBurnSlow", "ConclaveAttentionServiceDown"
        } <= self.prometheus.alerts(), 60), self.prometheus.alerts())
        self.cluster.processes["gateway-0"].kill()
        self.assertTrue(self.fires("ConclaveGatewayDown"))


if __name__ == "__main__":
    if shutil.which("prometheus") is None:
        sys.exit("observability_test: Debian's package prometheus is missing; ./test installs it")
    unittest.main()
