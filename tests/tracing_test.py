"""Traces of a whole cluster, as a collector gets them: a request over HTTP and one over gRPC, whose spans at gateway
and attention service are nested, timed and named as docs/tracing.md says."""
import json
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conclave_test_lib import DEMO_MODEL, Cluster, eventually, run
from http_client import Client

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROMPT = "Who are you?"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP in JSON and keeps the spans, each with its service's name."""

    def __init__(self):
        self.spans, self.requests, self.status = [], [], 200
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def trace(self, trace, count):
        """Its spans, once there are so many."""
        found = lambda: [span for span in self.spans if span["traceId"] == trace]
        eventually(lambda: len(found()) >= count)
        return found()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers)))
        for resource in body["resourceSpans"]:
            attributes = values(resource["resource"])
            for scope in resource["scopeSpans"]:
                self.server.spans += [{**span, "service": attributes["service.name"]} for span in scope["spans"]]
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def values(holder):
    """Key → value of attributes."""
    return {a["key"]: next(iter(a["value"].values())) for a in holder["attributes"]}


def begin(span):
    return int(span["startTimeUnixNano"])


def end(span):
    return int(span["endTimeUnixNano"])


def cluster_that_sends_to(endpoint):
    flags = f"otlp-endpoint={endpoint} otlp-header=X-Scope=tests"
    return Cluster("--model", DEMO_MODEL, "--shards", 2, "--http-port", 0, "--gateway-flags", flags,
                   "--router-flags", flags)


class Tracing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.collector = Collector()
        cls.cluster = cluster_that_sends_to(cls.collector.endpoint())
        cls.client = Client(cls.cluster.http())

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()
        cls.collector.shutdown()
        cls.collector.server_close()

    def check_nested(self, spans):
        by_id = {span["spanId"]: span for span in spans}
        self.assertEqual(len(by_id), len(spans), "ids are unique")
        for span in spans:
            self.assertLessEqual(begin(span), end(span), span["name"])
            parent = by_id.get(span.get("parentSpanId"))
            if parent is None:
                continue
            self.assertGreaterEqual(begin(span), begin(parent), f"{span['name']} in {parent['name']}")
            # A call's span ends on the server after its last byte has gone out, which the client may see first; on a
            # busy machine the server comes to it much later.
            slack = 10_000_000_000 if parent["service"] != span["service"] else 0
            self.assertLessEqual(end(span), end(parent) + slack, f"{span['name']} in {parent['name']}")

    def check_phases(self, spans, root):
        names = {span["name"]: span for span in spans}
        parents = {"tokenise": root, "dispatch": root, "conclave.v1.RouterService/Decode": "dispatch",
                   "queue": "conclave.v1.RouterService/Decode", "prefill": "conclave.v1.RouterService/Decode",
                   "decode": "conclave.v1.RouterService/Decode"}
        for child, parent in parents.items():
            self.assertEqual(names[child]["parentSpanId"], names[parent]["spanId"], child)
        self.assertEqual([names[phase]["service"] for phase in parents],
                         ["conclave-gateway"] * 2 + ["conclave-router"] * 4)
        self.assertEqual(end(names["queue"]), begin(names["prefill"]))
        self.assertEqual(end(names["prefill"]), begin(names["decode"]))
        return names

    def test_http(self):
        reply = self.client.chat(PROMPT, max_tokens=8, ignore_eos=True)
        self.assertEqual(reply.status, 200)
        reply = self.client.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8, "temperature": 0, "ignore_eos": True,
        }, headers={"Traceparent": f"00-{TRACE}-{PARENT}-01", "Tracestate": "rojo=1"})
        self.assertEqual(reply.status, 200)
        usage = reply.json()["usage"]

        spans = self.collector.trace(TRACE, 8)
        self.assertEqual(len(spans), 8, [span["name"] for span in spans])
        self.check_nested(spans)
        names = self.check_phases(spans, "chat demo")
        http, chat = names["POST /v1/chat/completions"], names["chat demo"]
        self.assertEqual(http["parentSpanId"], PARENT)
        self.assertEqual(chat["parentSpanId"], http["spanId"])
        self.assertEqual({span.get("traceState") for span in spans}, {"rojo=1"})
        self.assertEqual(values(http)["http.response.status_code"], "200")
        self.assertEqual(values(chat)["gen_ai.operation.name"], "chat")
        self.assertEqual(values(chat)["gen_ai.request.model"], "demo")
        self.assertEqual(values(chat)["gen_ai.usage.input_tokens"], str(usage["prompt_tokens"]))
        self.assertEqual(values(chat)["gen_ai.usage.output_tokens"], "8")
        self.assertEqual(values(names["decode"])["gen_ai.usage.output_tokens"], "8")
        self.assertGreater(end(names["decode"]), begin(names["decode"]))
        # The same prompt came before: its blocks were there.
        self.assertEqual(values(names["prefill"])["conclave.cached_tokens"],
                         str(usage["prompt_tokens_details"]["cached_tokens"]))

        text = json.dumps(self.collector.spans)
        self.assertNotIn(PROMPT, text)
        path, headers = self.collector.requests[0]
        self.assertEqual((path, headers["X-Scope"]), ("/v1/traces", "tests"))
        with open(f"{self.cluster.run_dir}/gateway.log") as log:
            self.assertIn(f"trace_id={TRACE}", log.read())

    def test_grpc_begins_a_trace(self):
        before = {span["traceId"] for span in self.collector.spans}
        answer = run("generate", "--gateway", self.cluster.gateway(), "--prompt", "Once", "--max-tokens", 4)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        call = "conclave.v1.InferenceService/Generate"
        root = eventually(lambda: next((s for s in self.collector.spans
                                        if s["name"] == call and s["traceId"] not in before), None))
        self.assertIsNotNone(root)
        spans = self.collector.trace(root["traceId"], 8)
        self.assertNotIn("parentSpanId", root)
        self.check_nested(spans)
        self.check_phases(spans, "text_completion demo")

    def test_what_is_malformed_or_not_sampled_is_not_followed(self):
        for parent in ("00-" + "0" * 32 + f"-{PARENT}-01", "nonsense", f"00-{TRACE[::-1]}-{PARENT}-00"):
            reply = self.client.post("/v1/completions", {"prompt": "x", "max_tokens": 1},
                                     headers={"traceparent": parent})
            self.assertEqual(reply.status, 200, parent)
        time.sleep(1.5)  # a batch waits for a second
        self.assertNotIn(TRACE[::-1], {span["traceId"] for span in self.collector.spans})


class WithoutACollector(unittest.TestCase):
    def test_a_collector_that_is_down_costs_a_line_of_the_log_and_no_answer(self):
        with cluster_that_sends_to("http://127.0.0.1:1") as cluster:
            client = Client(cluster.http())
            for _ in range(3):
                self.assertEqual(client.chat(PROMPT).status, 200)
            log = f"{cluster.run_dir}/gateway.log"
            self.assertTrue(eventually(lambda: "did not reach the collector" in open(log).read()))
            self.assertEqual(client.chat(PROMPT).status, 200)
            self.assertEqual(open(log).read().count("did not reach the collector"), 1)


if __name__ == "__main__":
    unittest.main()
