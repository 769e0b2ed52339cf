"""What the gateway says over HTTP: OpenAI's endpoints, probes, streams, connections that stay, clients that leave."""
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest
import urllib.request

from conclave_test_lib import DEMO_MODEL, Cluster, Gateway, eventually, generate
from http_client import Client, Connection

STORY = "Once upon a time"


def is_busy(cluster):
    return metric(cluster, "conclave_router_requests_running") > 0


def is_free(cluster):
    """Nothing runs, and the only KV blocks in use are those that the prefix cache keeps."""
    return not is_busy(cluster) and (metric(cluster, "conclave_router_kv_blocks_used") ==
                                     metric(cluster, "conclave_router_kv_blocks_cached"))


def lines_of(path):
    with open(path) as file:
        return file.read().splitlines()


def metric(cluster, name):
    url = f"http://{cluster.processes('router')[0]['metrics']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
    return None


class HttpTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc", "--compute", "f32")
        cls.gateway = Gateway(cls.cluster, "--http-ping-interval", "20ms", "--http-output-bytes-max", "64KiB",
                              "--log-format", "json")
        cls.client = Client(cls.gateway.http())

    @classmethod
    def tearDownClass(cls):
        cls.gateway.stop()
        cls.cluster.__exit__()

    def assert_idle(self):
        """Nothing runs any more, and a good request succeeds."""
        self.assertTrue(eventually(lambda: is_free(self.cluster)))
        self.assertEqual(self.client.complete().status, 200)

    def test_probes_and_models(self):
        for path, key in (("/health", "ok"), ("/ready", "ready"), ("/ping", "ready")):
            self.assertEqual(self.client.get(path).json(), {"status": key})
        self.assertRegex(self.client.get("/version").json()["version"], r"^\d+\.\d+")
        models = self.client.get("/v1/models").json()
        self.assertEqual((models["object"], [m["id"] for m in models["data"]]), ("list", ["demo"]))
        self.assertEqual(self.client.get("/v1/models/demo").json(), models["data"][0])
        self.assertEqual(self.client.get("/v1/models/de%6Do").json(), models["data"][0])
        unknown = self.client.get("/v1/models/other")
        self.assertEqual((unknown.status, unknown.error()["code"]), (404, "model_not_found"))

    def test_methods(self):
        head = self.client.request("HEAD", "/health")
        with Connection(self.client.address) as connection:
            connection.send(head)
            answer = connection.read_answer(head_only=True)
            self.assertEqual((answer.status, answer.headers["content-length"]), (200, "16"))
            connection.send(self.client.request("GET", "/health"))  # no body came in between
            self.assertEqual(connection.read_answer().status, 200)
        for method, path, status, allow in (("OPTIONS", "/v1/models", 204, "GET, HEAD, OPTIONS"),
                                            ("GET", "/v1/completions", 405, "POST, OPTIONS"),
                                            ("DELETE", "/v1/models/demo", 405, "GET, HEAD, OPTIONS")):
            answer = self.client.raw(self.client.request(method, path))
            self.assertEqual((answer.status, answer.headers["allow"]), (status, allow))
        unknown = self.client.get("/v1/embeddings")
        self.assertEqual((unknown.status, unknown.error()["code"]), (404, "unknown_url"))

    def test_completion_equals_the_answer_over_grpc(self):
        answer = self.client.complete(max_tokens=24, hash_logits=True).json()
        other = generate("--gateway", self.cluster.gateway(), "--prompt", STORY, "--max-tokens", 24, "--hash-logits")
        choice = answer["choices"][0]
        self.assertEqual((choice["text"], choice["logits_hash"]), (other["text"], other["logits_hash"]))
        self.assertEqual((answer["object"], choice["finish_reason"]), ("text_completion", "length"))
        self.assertEqual(answer["usage"]["prompt_tokens"], len(other["prompt_ids"]))
        self.assertEqual(answer["usage"]["completion_tokens"], 24)
        self.assertIn("cached_tokens", answer["usage"]["prompt_tokens_details"])
        self.assertIn("mla-absorbed", answer["system_fingerprint"])

    def test_prompts_as_text_ids_and_lists_of_both(self):
        ids = self.client.post("/tokenize", {"prompt": STORY}).json()
        self.assertEqual(ids["count"], len(ids["tokens"]))
        bare = self.client.post("/tokenize", {"prompt": STORY, "add_special_tokens": False}).json()
        self.assertEqual(bare["tokens"], ids["tokens"][1:])
        self.assertTrue(self.client.post("/detokenize", {"tokens": ids["tokens"]}).json()["prompt"].endswith(STORY))
        text = self.client.complete().json()["choices"][0]["text"]
        self.assertEqual(self.client.complete(prompt=ids["tokens"]).json()["choices"][0]["text"], text)
        several = self.client.complete(prompt=[STORY, "2 + 2 =", STORY], n=2).json()
        self.assertEqual([c["index"] for c in several["choices"]], list(range(6)))
        self.assertEqual([several["choices"][i]["text"] for i in (0, 1, 4, 5)], [text] * 4)
        self.assertNotEqual(several["choices"][2]["text"], text)
        both = self.client.complete(prompt=[ids["tokens"], ids["tokens"]]).json()
        self.assertEqual([c["text"] for c in both["choices"]], [text] * 2)

    def test_a_client_that_tokenises_itself_learns_what_it_needs(self):
        with open(os.path.join(DEMO_MODEL, "tokenizer_config.json")) as file:
            config = json.load(file)
        info = self.client.get("/tokenizer_info").json()
        for name in ("bos_token", "eos_token", "pad_token"):
            self.assertEqual(info[name], config[name]["content"])
            ids = self.client.post("/tokenize", {"prompt": info[name], "add_special_tokens": False}).json()["tokens"]
            self.assertEqual(len(ids), 1, name)
        self.assertEqual((info["chat_template"], info["add_bos_token"]), (config["chat_template"], True))
        self.assertEqual(info["tokenizer_class"], config["tokenizer_class"])

    def test_echo_with_log_probabilities_of_the_prompt(self):
        choice = self.client.complete(echo=True, logprobs=2, max_tokens=1).json()["choices"][0]
        logprobs = choice["logprobs"]
        self.assertTrue(choice["text"].startswith(STORY))
        self.assertIsNone(logprobs["token_logprobs"][0])
        self.assertIsNone(logprobs["top_logprobs"][0])
        self.assertEqual({len(value) for value in logprobs.values()}, {len(logprobs["tokens"])})
        for token, offset in list(zip(logprobs["tokens"], logprobs["text_offset"]))[1:]:
            self.assertEqual(choice["text"][offset:offset + len(token)], token)

    def test_a_prompt_is_scored_without_an_answer(self):
        fields = {"echo": True, "logprobs": 2}
        whole = self.client.complete(max_tokens=1, **fields).json()
        scored = self.client.complete(max_tokens=0, **fields).json()
        choice = scored["choices"][0]
        self.assertEqual((choice["text"], choice["finish_reason"]), (STORY, "length"))
        self.assertEqual(scored["usage"]["completion_tokens"], 0)
        self.assertEqual(scored["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"])
        tokens = whole["usage"]["prompt_tokens"]
        self.assertEqual(choice["logprobs"], {name: values[:tokens] for name, values in
                                              whole["choices"][0]["logprobs"].items()})
        self.assertLess(choice["logprobs"]["token_logprobs"][1], 0)
        events = self.client.complete(max_tokens=0, stream=True, stream_options={"include_usage": True},
                                      **fields).events()
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(events[0]["choices"][0]["text"], STORY)
        self.assertEqual(events[0]["choices"][0]["logprobs"], choice["logprobs"])
        self.assertEqual(events[1]["choices"][0]["finish_reason"], "length")
        self.assertEqual(events[2]["usage"], scored["usage"])
        both = self.client.complete(prompt=[STORY, "2 + 2 ="], max_tokens=0, n=2, echo=True).json()
        self.assertEqual([c["text"] for c in both["choices"]], [STORY, STORY, "2 + 2 =", "2 + 2 ="])
        for refused in (self.client.complete(max_tokens=0, logprobs=2), self.client.chat(max_tokens=0)):
            self.assertEqual((refused.status, refused.error()["param"]), (400, "max_tokens"))

    def test_stream_says_what_the_whole_answer_says(self):
        whole = self.client.chat(logprobs=True, top_logprobs=2).json()
        answer = self.client.chat(logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True})
        self.assertEqual(answer.headers["content-type"], "text/event-stream; charset=utf-8")
        events = answer.events()
        self.assertEqual(events[-1], "[DONE]")
        chunks = events[:-1]
        self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual([c["usage"] for c in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual((chunks[-1]["choices"], chunks[-1]["usage"]), ([], whole["usage"]))
        choices = [c["choices"][0] for c in chunks[:-1]]
        text = "".join(c["delta"].get("content", "") for c in choices)
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertEqual((choices[-1]["delta"], choices[-1]["finish_reason"]), ({}, "length"))
        logprobs = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
        self.assertEqual(logprobs, whole["choices"][0]["logprobs"]["content"])

    def test_a_stream_that_waits_sends_comments(self):
        answer = self.client.complete(prompt="a b c d " * 450, stream=True, max_tokens=2)
        self.assertIn(b": ping\n\n", answer.body)
        self.assertEqual(answer.events()[-1], "[DONE]")

    def test_seeds_and_stop_texts(self):
        ask = lambda **fields: self.client.complete(max_tokens=12, temperature=1.5, **fields).json()["choices"][0]
        self.assertEqual(ask(seed=-7)["text"], ask(seed=-7)["text"])
        self.assertGreater(len({ask()["text"] for _ in range(5)}), 1)
        whole = self.client.complete(max_tokens=12).json()["choices"][0]["text"]
        stopped = self.client.complete(max_tokens=12, stop=[whole[5:9], "\x00never"]).json()["choices"][0]
        self.assertEqual((stopped["text"], stopped["finish_reason"]), (whole[:whole.index(whole[5:9])], "stop"))

    def test_experts_of_tokens_are_those_of_their_rows_whatever_the_cache_holds(self):
        fields = {"prompt": STORY * 12, "max_tokens": 12, "ignore_eos": True, "token_experts": True}
        first, again = (self.client.complete(**fields).json() for _ in range(2))
        tokens = first["choices"][0]["token_experts"]
        self.assertEqual(len(tokens), 12)
        for token in tokens:
            self.assertEqual(list(token["experts"]), [str(layer) for layer in range(1, 8)])
            for experts in token["experts"].values():
                self.assertEqual(experts, sorted(set(experts)))
                self.assertEqual(len(experts), len(tokens[0]["experts"]["1"]))
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(again["choices"][0]["token_experts"], tokens)
        events = self.client.complete(**fields, stream=True).events()
        streamed = [token for event in events if event != "[DONE]"
                    for token in event["choices"][0].get("token_experts", [])]
        self.assertEqual(streamed, tokens)
        self.assertNotIn("token_experts", self.client.complete().json()["choices"][0])

    def test_request_ids_are_echoed_in_header_body_and_log(self):
        with Connection(self.client.address) as connection:
            body = '{"prompt": "secret words", "max_tokens": 2}'
            connection.send(self.client.request("POST", "/v1/completions", body, {"X-Request-Id": "trace-77"}))
            answer = connection.read_answer()
        self.assertEqual(answer.headers["x-request-id"], "trace-77")
        self.assertEqual(answer.json()["id"], "cmpl-trace-77")
        log = self.gateway.log
        find = lambda: [json.loads(line) for line in lines_of(log) if "trace-77" in line and '"event": "http"' in line]
        line = eventually(find)[0]
        self.assertEqual((line["status"], line["route"], line["method"]), (200, "/v1/completions", "POST"))
        self.assertEqual([line for line in lines_of(log) if "secret words" in line], [])
        refused = self.client.get("/health", {"X-Request-Id": "has space"})
        self.assertEqual(refused.status, 400)

    def test_pipelined_requests_are_answered_in_order(self):
        with Connection(self.client.address) as connection:
            bodies = [{"prompt": STORY, "max_tokens": n, "temperature": 0} for n in (9, 1, 5)]
            connection.send(b"".join(self.client.request("POST", "/v1/completions", json.dumps(b)) for b in bodies))
            connection.send(self.client.request("GET", "/health"))
            counts = [connection.read_answer().json()["usage"]["completion_tokens"] for _ in bodies]
            self.assertEqual(counts, [9, 1, 5])
            self.assertEqual(connection.read_answer().json(), {"status": "ok"})

    def test_http_1_0_gets_its_stream_until_the_connection_closes(self):
        body = json.dumps({"prompt": STORY, "max_tokens": 3, "stream": True})
        answer = self.client.raw(f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(answer.events()[-1], "[DONE]")

    def test_expect_100_continue(self):
        body = json.dumps({"prompt": STORY, "max_tokens": 1})
        head = self.client.head("POST", "/v1/completions", {"Expect": "100-continue", "Content-Length": len(body)})
        with Connection(self.client.address) as connection:
            connection.send(head + "\r\n")
            self.assertEqual(connection.read_answer().status, 100)
            connection.send(body)
            self.assertEqual(connection.read_answer().status, 200)

    def test_invocations_take_chats_and_completions(self):
        chat = self.client.post("/invocations", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        self.assertEqual(chat.json()["object"], "chat.completion")
        completion = self.client.post("/invocations", {"prompt": "Hi", "max_tokens": 1})
        self.assertEqual(completion.json()["object"], "text_completion")

    def test_a_client_that_leaves_in_mid_stream_frees_everything(self):
        for how in ("close", "reset"):
            with self.subTest(how), Connection(self.client.address) as connection:
                fields = {"prompt": STORY, "max_tokens": 1900, "ignore_eos": True, "stream": True, "n": 3}
                connection.send(self.client.request("POST", "/v1/completions", json.dumps(fields)))
                connection.read_until(b"data: ")
                if how == "reset":
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.assert_idle()

    def test_a_client_that_leaves_before_a_whole_answer_frees_everything(self):
        with Connection(self.client.address) as connection:
            fields = {"prompt": STORY, "max_tokens": 1900, "ignore_eos": True, "n": 2}
            connection.send(self.client.request("POST", "/v1/completions", json.dumps(fields)))
            self.assertTrue(eventually(lambda: is_busy(self.cluster)))
        self.assert_idle()

    def test_a_client_that_never_reads_is_cut_off(self):
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(self.client.address)
            fields = {"prompt": STORY, "max_tokens": 1900, "ignore_eos": True, "stream": True, "n": 4, "logprobs": 20}
            stuck.sendall(self.client.request("POST", "/v1/completions", json.dumps(fields)))
            self.assertTrue(eventually(lambda: is_busy(self.cluster)))
            self.assert_idle()


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.file = staticmethod(lambda name: os.path.join(cls.folder.name, name))
        for name in ("server", "client", "stranger"):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                            "-keyout", cls.file(name + ".key"), "-out", cls.file(name + ".pem")],
                           check=True, capture_output=True)
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc")

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()
        cls.folder.cleanup()

    def context(self, name=None):
        context = ssl.create_default_context(cafile=self.file("server.pem"))
        if name:
            context.load_cert_chain(self.file(name + ".pem"), self.file(name + ".key"))
        return context

    def ask(self, gateway, context):
        host, port = gateway.http()
        connection = http.client.HTTPSConnection(host, port, context=context, timeout=30)
        try:
            answers = []
            for stream in (False, True, False):  # all over one connection
                connection.request("POST", "/v1/completions", json.dumps(
                    {"prompt": STORY, "max_tokens": 4, "temperature": 0, "stream": stream}),
                    {"Content-Type": "application/json"})
                answers.append(connection.getresponse().read())
            return answers
        finally:
            connection.close()

    def flags(self, *more):
        return ["--http-tls-cert", self.file("server.pem"), "--http-tls-key", self.file("server.key"), *more]

    def test_https(self):
        gateway = Gateway(self.cluster, *self.flags("--http-header-timeout", "1s"), ready=False)
        try:
            self.assertTrue(eventually(lambda: b"choices" in self.ask(gateway, self.context())[0]))
            whole, stream, again = self.ask(gateway, self.context())
            self.assertTrue(stream.endswith(b"data: [DONE]\n\n"))
            self.assertEqual(json.loads(whole)["choices"], json.loads(again)["choices"])
            with self.assertRaises(ssl.SSLError):  # who does not know the certificate does not talk
                self.ask(gateway, ssl.create_default_context())
            with Connection(gateway.http()) as silent:  # a handshake that never comes does not hold a connection
                self.assertTrue(silent.is_closed())
            with Connection(gateway.http()) as plain:
                plain.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertTrue(plain.is_closed())
                self.assertNotIn(b"HTTP/1.1 200", plain.buffer)
            # A stream that ends with its connection ends in order.
            host, port = gateway.http()
            with socket.create_connection((host, port), timeout=30) as raw, \
                    self.context().wrap_socket(raw, server_hostname=host) as client:
                client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                text = b""
                while more := client.recv(4096):  # raises where the end is no orderly one
                    text += more
                self.assertTrue(text.startswith(b"HTTP/1.1 200"))
        finally:
            self.assertEqual(gateway.stop(), 0)

    def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(self):
        def replace(name):
            for end in (".pem", ".key"):
                shutil.copy(self.file(name + end), self.file("new"))
                os.replace(self.file("new"), self.file("live" + end))

        replace("server")
        gateway = Gateway(self.cluster, "--http-tls-cert", self.file("live.pem"), "--http-tls-key",
                          self.file("live.key"), ready=False)
        says = lambda text: text in open(gateway.log).read()
        renewed = ssl.create_default_context(cafile=self.file("stranger.pem"))
        try:
            self.assertTrue(eventually(lambda: b"choices" in self.ask(gateway, self.context())[0]))
            host, port = gateway.http()
            stays = http.client.HTTPSConnection(host, port, context=self.context(), timeout=30)
            stays.request("GET", "/health")
            stays.getresponse().read()
            shutil.copy(self.file("stranger.key"), self.file("live.key"))
            self.assertTrue(eventually(lambda: says("the changed files are not used")))
            self.assertIn(b"choices", self.ask(gateway, self.context())[0])
            replace("stranger")
            self.assertTrue(eventually(lambda: says("the changed files are in use")))
            self.assertIn(b"choices", self.ask(gateway, renewed)[0])
            with self.assertRaises(ssl.SSLError):
                self.ask(gateway, self.context())
            stays.request("GET", "/health")  # what stands goes on
            self.assertEqual(stays.getresponse().status, 200)
            stays.close()
            with urllib.request.urlopen(f"http://{gateway.addresses['metrics']}/metrics", timeout=10) as page:
                text = page.read().decode()
            for result in ("refused", "taken"):
                self.assertIn(f'conclave_tls_certificate_reloads_total{{result="{result}",use="http"}} 1\n', text)
        finally:
            self.assertEqual(gateway.stop(), 0)

    def test_clients_without_a_certificate_of_the_authority_are_kept_out(self):
        gateway = Gateway(self.cluster, *self.flags("--http-tls-client-ca", self.file("client.pem")), ready=False)
        try:
            self.assertTrue(eventually(lambda: b"choices" in self.ask(gateway, self.context("client"))[0]))
            for name in (None, "stranger"):
                with self.assertRaises((ssl.SSLError, OSError, http.client.HTTPException)):
                    self.ask(gateway, self.context(name))
        finally:
            self.assertEqual(gateway.stop(), 0)


class LifeTest(unittest.TestCase):
    def test_an_answer_that_takes_too_long_is_504_or_an_error_event(self):
        with Cluster("--model", DEMO_MODEL, "--transport", "inproc") as cluster:
            gateway = Gateway(cluster, "--http-request-timeout", "300ms")
            try:
                client = Client(gateway.http())
                late = client.complete(max_tokens=1900, ignore_eos=True)
                self.assertEqual((late.status, late.error()["code"]), (504, "timeout"))
                # On a busy machine now and then not even the first token comes in time.
                def begun():
                    events = client.complete(max_tokens=1900, ignore_eos=True, stream=True).events()
                    return events if events and "choices" in events[0] else None
                events = eventually(begun)
                self.assertIsNotNone(events, "nothing before the error")
                self.assertEqual(events[-1]["error"]["code"], "timeout")
                self.assertTrue(eventually(lambda: is_free(cluster)))
                self.assertTrue(eventually(lambda: client.complete().status == 200))
            finally:
                self.assertEqual(gateway.stop(), 0)

    def test_a_dead_attention_service_is_an_error_event_in_mid_stream(self):
        with Cluster("--model", DEMO_MODEL, "--transport", "inproc", "--gateway-flags", "resume-wait=1s") as cluster:
            client = Client(cluster.http())
            with Connection(client.address) as connection:
                fields = {"prompt": STORY, "max_tokens": 1900, "ignore_eos": True, "stream": True}
                connection.send(client.request("POST", "/v1/completions", json.dumps(fields)))
                status, _ = connection.read_head()
                self.assertEqual(status, 200)
                connection.read_until(b"data: ")
                os.kill(cluster.processes("router")[0]["pid"], signal.SIGKILL)
                rest = b""
                while b"\r\n0\r\n\r\n" not in connection.buffer:
                    more = connection.read()
                    if not more:
                        break
                    connection.buffer += more
                rest = connection.buffer
            self.assertIn(b'data: {"error": {"message": ', rest)
            self.assertNotIn(b"[DONE]", rest)

    def test_before_the_model_is_served_probes_say_so_and_afterwards_a_stream_is_finished(self):
        with Cluster("--model", DEMO_MODEL, "--transport", "inproc") as cluster:
            lonely = Gateway(cluster, "--router", "127.0.0.1:1", ready=False)
            client = Client(lonely.http())
            self.assertEqual(client.get("/health").status, 200)
            for path in ("/ready", "/ping", "/v1/models"):
                answer = client.get(path)
                self.assertEqual((answer.status, "retry-after" in answer.headers), (503, True), path)
            self.assertEqual(client.complete().status, 503)
            self.assertEqual(lonely.stop(), 0)
            client = Client(cluster.http())
            with Connection(client.address) as idle, Connection(client.address) as connection:
                fields = {"prompt": STORY, "max_tokens": 400, "ignore_eos": True, "stream": True}
                connection.send(client.request("POST", "/v1/completions", json.dumps(fields)))
                connection.socket.settimeout(60)
                head = connection.read_head()
                cluster.process.send_signal(signal.SIGTERM)
                self.assertEqual(connection.read_body(*head).events()[-1], "[DONE]")
                self.assertTrue(idle.is_closed())
            self.assertEqual(cluster.process.wait(timeout=60), 0)


if __name__ == "__main__":
    unittest.main()
