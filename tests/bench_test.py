"""`conclave bench` against a real gateway over both protocols, and against a server that misbehaves."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from conclave_test_lib import CONCLAVE, DEMO_MODEL, Cluster, Gateway, clean_environment, free_port, new_folder, run
from fake_openai_server import FakeServer

PROTOCOLS = ("http", "grpc")
SMALL = ["--input-tokens", "uniform:8-24", "--output-tokens", 6]


def bench(*arguments, code=0):
    result = run("bench", "-o", "json", *arguments, timeout=120)
    assert result.returncode == code, f"exit {result.returncode}: {result.stdout} {result.stderr}"
    return json.loads(result.stdout), result.stderr


class ClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc")
        cls.addClassCleanup(cls.cluster.__exit__)

    def bench(self, protocol, *arguments):
        return bench("--run-dir", self.cluster.run_dir, "--protocol", protocol, *arguments)[0]

    def assert_all_answered(self, figures, count):
        counts = [figures[f"requests_{what}"] for what in ("sent", "answered", "refused", "failed")]
        self.assertEqual(counts, [count, count, 0, 0], figures)
        self.assertEqual(figures["ttft_ms"]["count"], count)
        self.assertEqual(figures["e2e_ms"]["count"], count)
        self.assertLessEqual(figures["ttft_ms"]["p50"], figures["e2e_ms"]["p50"])
        self.assertGreater(figures["ttft_ms"]["p50"], 0)
        self.assertGreater(figures["tpot_ms"]["p50"], 0)

    def test_both_protocols_send_the_same_requests_and_count_the_same_tokens(self):
        totals = []
        for protocol in PROTOCOLS:
            figures = self.bench(protocol, *SMALL, "--requests", 20, "--concurrency", 4, "--slo", "e2e=5m,ttft=1us",
                                 "--seed", 5)
            self.assert_all_answered(figures, 20)
            self.assertEqual(figures["output_tokens"], 20 * 6)
            self.assertEqual(figures["requests_good"], 0)  # nobody is that fast
            totals.append((figures["input_tokens"], figures["setup"]["model"]))
        self.assertEqual(totals[0], totals[1])
        self.assertTrue(20 * 8 < totals[0][0] < 20 * 24, totals)

    def test_arrivals_at_a_rate_and_from_a_trace(self):
        for protocol in PROTOCOLS:
            figures = self.bench(protocol, *SMALL, "--requests", 30, "--rate", 60, "--slo", "e2e=5m")
            self.assert_all_answered(figures, 30)
            self.assertEqual(figures["requests_good"], 30)
            self.assertGreater(figures["seconds"], 0.1)
            self.assertEqual(figures["lateness_ms"]["count"], 30)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as trace:
            for i in range(5):
                trace.write(json.dumps({"timestamp": 1000 * i, "input_length": 10 + i, "output_length": 2 + i}) + "\n")
            trace.flush()
            figures = self.bench("http", "--trace", trace.name, "--trace-speed", 10)
        self.assert_all_answered(figures, 5)
        self.assertEqual((figures["input_tokens"], figures["output_tokens"]), (60, 20))
        self.assertGreaterEqual(figures["seconds"], 0.4)

    def test_a_shared_prefix_is_found_in_the_cache(self):
        figures = self.bench("http", "--requests", 8, "--concurrency", 1, "--shared-prefix", 64, "--input-tokens", 8,
                             "--output-tokens", 2)
        self.assertEqual(figures["input_tokens"], 8 * 72)
        self.assertGreaterEqual(figures["cached_tokens"], 7 * 64)

    def test_refusals_of_a_tenant_limit_are_counted_apart(self):
        made = json.loads(run("key", "-o", "json").stdout)
        folder = new_folder()
        keys = os.path.join(folder, "keys.yaml")
        with open(keys, "w") as file:
            file.write(f"tenants:\n  - name: one\n    keys: ['{made['hash']}']\n    requests-per-minute: 5\n")
        for protocol in PROTOCOLS:
            gateway = Gateway(self.cluster, "--api-keys", keys)
            self.addCleanup(gateway.stop)
            address = gateway.addresses["http" if protocol == "http" else "grpc"]
            asked = ["--address", address, "--protocol", protocol, *SMALL, "--requests", 12, "--concurrency", 2,
                     "--warmup", 0, "--ignore-retry-after"]
            figures, _ = bench(*asked, "--api-key", made["key"])
            self.assertEqual(figures["requests_answered"] + figures["requests_refused"], 12, figures)
            self.assertLessEqual(figures["requests_answered"], 5 + 1 + figures["seconds"] / 12, "one more every 12 s")
            self.assertGreater(figures["requests_refused"], 0)
            self.assertEqual(figures["retry_after_ms"]["count"], figures["requests_refused"])
            self.assertGreater(figures["retry_after_ms"]["p50"], 1000)
            self.assertEqual(figures["refusal_ms"]["count"], figures["requests_refused"])
            without = run("bench", *asked, "--api-key", "ck-nobody-nothing")
            self.assertEqual(without.returncode, 1)
            self.assertIn("not known here", without.stderr)

    def test_what_is_wrong_is_said_before_anything_is_sent(self):
        for flags, complaint in ((["--rate", 5, "--trace", "x"], "give one of them"),
                                 (["--input-tokens", "many"], "--input-tokens takes a number of tokens"),
                                 (["--slo", "fast"], "--slo takes bounds"),
                                 (["--trace", "/no/such"], "--trace /no/such: No such file"),
                                 (["--requests", 5, "--duration", "1s"], "--requests and --duration")):
            result = run("bench", "--run-dir", self.cluster.run_dir, *flags)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(complaint, result.stderr)
        self.assertEqual(run("bench").returncode, 2)
        for protocol in PROTOCOLS:
            nobody = run("bench", "--address", f"127.0.0.1:{free_port()}", "--protocol", protocol)
            self.assertEqual(nobody.returncode, 1)
            self.assertIn("answer", nobody.stderr)


class MisbehavingServerTest(unittest.TestCase):
    def serve(self, *script):
        server = FakeServer(script)
        self.addCleanup(server.close)
        return server

    def test_each_kind_of_end_is_counted_as_what_it_is(self):
        server = self.serve("ok", "refuse", "error", "ok", "cut", "short", "fail", "ok")
        figures, errors = bench("--address", f"http://{server.address}", "--requests", 16, "--concurrency", 1,
                                "--warmup", 0, "--ignore-retry-after", "--output-tokens", 4, code=1)
        counts = [figures[f"requests_{what}"] for what in ("sent", "answered", "refused", "failed")]
        self.assertEqual(counts, [16, 6, 2, 8], figures)
        self.assertEqual(figures["retry_after_ms"]["p50"], 2000)
        self.assertEqual(figures["output_tokens"], 6 * 4)
        self.assertEqual(figures["itl_ms"]["count"], 6 * 3)
        found = {entry["error"].split(" (")[0]: entry["count"] for entry in figures["errors"]}
        self.assertEqual(found.pop("in mid-stream: server_error: lost an expert"), 2, found)
        self.assertEqual(found.pop("HTTP 500: server_error: broken"), 2, found)
        self.assertEqual(found.pop("in mid-stream: the stream ended before its end"), 2, found)
        self.assertEqual(len(found), 1)
        self.assertRegex(found.popitem()[0], "^in mid-stream: the connection was lost within the answer")
        self.assertIn("conclave bench: 8 of 16 requests failed", errors)
        request = server.requests[0]
        self.assertEqual((request["model"], request["stream"], request["max_tokens"]), ("fake", True, 4))
        self.assertEqual(len(request["prompt"]), 128)

    def test_a_first_request_that_fails_ends_it_at_once(self):
        server = self.serve("fail")
        result = run("bench", "--address", server.address)
        self.assertEqual(result.returncode, 1)
        self.assertIn("a request of the warm-up failed: HTTP 500: server_error: broken", result.stderr)
        self.assertEqual(len(server.requests), 1)

    def test_requests_that_hang_end_at_their_timeout(self):
        server = self.serve("hang")
        figures, _ = bench("--address", server.address, "--requests", 3, "--concurrency", 3, "--warmup", 0,
                           "--timeout", "2s", code=1)
        self.assertEqual(figures["requests_failed"], 3)
        self.assertIn("no end within 2s", figures["errors"][0]["error"])

    def test_an_interrupt_ends_it_with_the_figures_so_far(self):
        server = self.serve("ok", "ok", "hang")
        process = subprocess.Popen([CONCLAVE, "bench", "-o", "json", "--address", server.address, "--concurrency", "1",
                                    "--warmup", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=clean_environment())
        end = time.monotonic() + 30
        while len(server.requests) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        figures = json.loads(output)
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted", errors)
        self.assertEqual([figures[f"requests_{what}"] for what in ("answered", "abandoned", "failed")], [2, 1, 0])


if __name__ == "__main__":
    unittest.main()
