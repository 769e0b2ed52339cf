"""Bad input over HTTP, a test per line of the list: each gets its status, nothing crashes or leaks, others do not
notice, and the next good request succeeds."""
import json
import os
import tempfile
import threading
import unittest

from conclave_test_lib import DEMO_MODEL, Cluster, Gateway, eventually, run
from http_client import Client, Connection

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class LimitsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        key = json.loads(run("key", "-o", "json").stdout)
        cls.folder = tempfile.TemporaryDirectory()
        keys = os.path.join(cls.folder.name, "keys.yaml")
        with open(keys, "w") as file:
            file.write(f"tenants:\n  - name: test\n    keys: [\"{key['hash']}\"]\n")
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc")
        cls.gateway = Gateway(cls.cluster, "--api-keys", keys, "--http-connections-max", 24)
        cls.client = Client(cls.gateway.http(), key["key"])
        # The other tests' requests may take the time that a busy machine takes.
        cls.impatient = Gateway(cls.cluster, "--api-keys", keys, "--http-header-timeout", "1s",
                                "--http-body-timeout", "2s", "--http-idle-timeout", "2s")
        cls.pid = cls.gateway.process.pid

    @classmethod
    def tearDownClass(cls):
        cls.gateway.stop()
        cls.impatient.stop()
        cls.cluster.__exit__()
        cls.folder.cleanup()

    def tearDown(self):
        answer = self.client.complete()
        self.assertEqual(answer.status, 200, answer.body)

    def refused(self, answer, status, param=None, code=None):
        error = answer.error()
        self.assertEqual((answer.status, error["param"], error["code"]), (status, param, code), error["message"])
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])

    # The protocol.

    def test_headers_of_a_megabyte(self):
        self.refused(self.client.get("/health", {"X-Long": "x" * (1 << 20)}), 431)

    def test_ten_thousand_headers(self):
        self.refused(self.client.get("/health", {f"x-{i}": "1" for i in range(10_000)}), 431)
        self.refused(self.client.get("/health", {f"x-{i}": "1" for i in range(150)}), 431)

    def test_slow_headers_and_slow_bodies_time_out_and_others_are_not_affected(self):
        client = Client(self.impatient.http(), self.client.key)
        head = client.head("POST", COMPLETIONS, {"Content-Length": 1000})
        for sent in ("POST /v1/comp", head + "\r\n{\"prompt"):
            with Connection(client.address) as slow:
                slow.send(sent)
                stop = threading.Event()

                def drip():
                    while not stop.wait(0.1):
                        try:
                            slow.send("a")
                        except OSError:
                            return

                thread = threading.Thread(target=drip)
                thread.start()
                try:
                    self.assertEqual(client.complete().status, 200)
                    self.refused(slow.read_answer(), 408)
                finally:
                    stop.set()
                    thread.join()

    def test_an_idle_connection_is_closed_without_a_word(self):
        with Connection(self.impatient.http()) as idle:
            self.assertTrue(idle.is_closed())
            self.assertEqual(idle.buffer, b"")

    def test_damaged_chunk_sizes(self):
        head = self.client.head("POST", COMPLETIONS, {"Transfer-Encoding": "chunked"})
        for size in ("-2", "zz", "1" * 17, "f" * 16 + "0", "0x10", ""):
            with self.subTest(size):
                self.refused(self.client.raw(f"{head}\r\n{size}\r\nab\r\n0\r\n\r\n"), 400)

    def test_a_chunked_body_is_taken(self):
        body = b'{"prompt": "Hi", "max_tokens": 1}'
        head = self.client.head("POST", COMPLETIONS, {"Transfer-Encoding": "chunked"})
        chunks = b"".join(b"1;x=y\r\n" + bytes([byte]) + b"\r\n" for byte in body)
        self.assertEqual(self.client.raw(head.encode() + b"\r\n" + chunks + b"0\r\n\r\n").status, 200)

    def test_an_endless_chunked_body(self):
        head = self.client.head("POST", COMPLETIONS, {"Transfer-Encoding": "chunked"})
        chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        with Connection(self.client.address) as connection:
            connection.send(head + "\r\n")
            try:
                for _ in range(100):
                    connection.send(chunk)
            except OSError:
                pass
            self.refused(connection.read_answer(), 413)

    def test_sixty_four_megabytes_are_refused_before_they_are_read(self):
        before = resident_bytes(self.pid)
        with Connection(self.client.address) as connection:
            connection.send(self.client.head("POST", COMPLETIONS, {"Content-Length": 64 << 20}) + "\r\n")
            self.refused(connection.read_answer(), 413)
        self.assertLess(resident_bytes(self.pid) - before, 32 << 20)

    def test_compressed_bodies(self):
        answer = self.client.post(COMPLETIONS, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        self.refused(answer, 415)
        head = self.client.head("POST", COMPLETIONS, {"Transfer-Encoding": "gzip, chunked"})
        self.refused(self.client.raw(head + "\r\n"), 501)

    def test_other_content_types(self):
        request = self.client.head("POST", COMPLETIONS, {"Content-Type": "text/plain", "Content-Length": 2}) + "\r\n{}"
        self.refused(self.client.raw(request), 415)

    def test_content_length_beside_transfer_encoding_and_two_lengths(self):
        for headers in ("Content-Length: 2\r\nTransfer-Encoding: chunked",
                        "Transfer-Encoding: chunked\r\nContent-Length: 2",
                        "Content-Length: 2\r\nContent-Length: 3", "Content-Length: -1", "Content-Length: 1e1"):
            with self.subTest(headers):
                self.refused(self.client.raw(f"{self.client.head('POST', COMPLETIONS)}{headers}\r\n\r\n{{}}"), 400)

    def test_what_is_no_http(self):
        self.refused(self.client.raw("\x16\x03\x01\x02\x00 hello\r\n\r\n"), 400)
        self.refused(self.client.raw("GET /health HTTP/1.1\r\n\r\n"), 400)  # no Host
        self.refused(self.client.raw("GET /health HTTP/3.0\r\nHost: x\r\n\r\n"), 505)
        self.refused(self.client.raw("GET /health HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n"), 400)

    def test_more_connections_than_are_allowed_are_told_so(self):
        held = [Connection(self.client.address) for _ in range(23)]
        try:
            for connection in held:
                connection.send("G")
            def refused():
                with Connection(self.client.address) as one, Connection(self.client.address) as more:
                    one.send(self.client.request("GET", "/health"))
                    more.send(self.client.request("GET", "/health"))
                    return 503 in (one.read_answer().status, more.read_answer().status)
            self.assertTrue(eventually(refused, 5))  # before those that are held have been too slow
        finally:
            for connection in held:
                connection.socket.close()
        self.assertTrue(eventually(lambda: self.client.get("/health").status == 200))

    # JSON.

    def test_deep_json(self):
        for depth in (100, 100_000):
            self.refused(self.client.post(COMPLETIONS, '{"prompt": ' + "[" * depth + "]" * depth + "}"), 400,
                         "prompt" + "[0]" * 63)
        self.refused(self.client.post(COMPLETIONS, "[" * 100_000), 400, "[0]" * 64)

    def test_damaged_json(self):
        for body in ("", "{", "null", "[]", '{"prompt": "a"} x', "\xef\xbb"):
            self.refused(self.client.post(COMPLETIONS, body), 400)
        answer = self.client.post(COMPLETIONS, '{"prompt": "a", "n": }')
        self.refused(answer, 400, "n")
        self.assertIn("(byte 22)", answer.error()["message"])

    def test_text_that_is_no_text(self):
        for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b"\\udc00x", b"\\ud83d\\u0041"):
            with self.subTest(bad):
                self.refused(self.client.post(COMPLETIONS, b'{"prompt": "' + bad + b'"}'), 400, "prompt")
        self.refused(self.client.post(COMPLETIONS, b'{"prompt": "a"}\0'), 400)

    def test_a_zero_character_passes_through_exactly(self):
        tokens = self.client.post("/tokenize", '{"prompt": "a\\u0000b\\ud83d\\ude42"}').json()["tokens"]
        self.assertTrue(self.client.post("/detokenize", {"tokens": tokens}).json()["prompt"].endswith("a\0b\U0001f642"))

    def test_keys_that_stand_twice(self):
        self.refused(self.client.post(COMPLETIONS, '{"prompt": "a", "n": 1, "n": 1}'), 400, "n")
        body = '{"messages": [{"role": "user", "content": "a", "role": "user"}]}'
        self.refused(self.client.post(CHAT, body), 400, "messages[0].role")

    def test_numbers_that_are_none_or_too_large(self):
        for field, value in (("temperature", "NaN"), ("temperature", "1e999"), ("temperature", "-Infinity"),
                             ("temperature", "1e300"), ("temperature", "-1"), ("temperature", '"0"'), ("top_p", "1.5"),
                             ("top_p", "0"), ("seed", "9223372036854775808"), ("seed", "1.5"), ("top_k", "2147483648"),
                             ("n", "1000000"), ("n", "0"), ("n", "1.0"), ("max_tokens", "-1"), ("max_tokens", "0"),
                             ("max_tokens", "9223372036854775808"), ("max_tokens", "99999999999999999999999"),
                             ("min_p", "2"), ("presence_penalty", "3"), ("frequency_penalty", "-2.1"),
                             ("repetition_penalty", "0"), ("logprobs", "21"), ("logit_bias", '{"x": 1}'),
                             ("logit_bias", '{"99999999": 1}'), ("logit_bias.1", '{"1": 101}'), ("stream", "1"),
                             ("stop[0]", "[1]"), ("stop[1]", '["a", ""]'), ("stop", json.dumps(["x"] * 17)),
                             ("stop_token_ids[0]", "[-1]"), ("priority", "1e3")):
            with self.subTest(field, value=value):
                name = field.split(".")[0].split("[")[0]
                answer = self.client.post(COMPLETIONS, f'{{"prompt": "a", "{name}": {value}}}')
                self.assertEqual(answer.status, 400, answer.body)
                self.assertIn(answer.error()["param"], (field, name), answer.error())

    def test_too_many_prompts_and_empty_ones(self):
        self.refused(self.client.complete(prompt=["a"] * 100_000), 400, "prompt")
        for prompt in ([], "", [""], {}, 7, [[]], [1.5], ["a", 1]):
            with self.subTest(prompt=prompt):
                answer = self.client.complete(prompt=prompt)
                self.assertEqual(answer.status, 400)
                self.assertTrue(answer.error()["param"].startswith("prompt"), answer.error())
        self.refused(self.client.complete(prompt=[1, 2, 10**6]), 400, "prompt[2]")

    def test_chats_that_are_none(self):
        message = {"role": "user", "content": "a"}
        for messages, param in (([], "messages"), (None, "messages"), ("a", "messages"), ([1], "messages[0]"),
                                ([{"role": "user"}], "messages[0].content"),
                                ([message, {"role": "robot", "content": ""}], "messages[1].role"),
                                ([{**message, "content": [{"type": "text"}]}], "messages[0].content[0].text")):
            self.refused(self.client.post(CHAT, {"messages": messages}), 400, param)

    def test_prompts_beyond_the_context(self):
        self.refused(self.client.complete(prompt="a b c d " * 4000), 400, "prompt", "context_length_exceeded")
        self.refused(self.client.chat("a b c d " * 4000), 400, "messages", "context_length_exceeded")
        self.refused(self.client.complete(prompt=["a", "a b c d " * 4000]), 400, "prompt[1]", "context_length_exceeded")

    def test_a_megabyte_of_one_letter_of_spaces_and_of_emoji_in_linear_time(self):
        for letter in ("a", " ", "\U0001f642"):
            with self.subTest(letter):
                times = []  # of the gateway's processor alone
                for size in (1 << 18, 1 << 20):
                    start = cpu_seconds(self.pid)
                    answer = self.client.post("/tokenize", {"prompt": letter * (size // len(letter.encode()))})
                    times.append(cpu_seconds(self.pid) - start)
                    self.assertEqual(answer.status, 200)
                # Four times the text; sixteen times the time would be a square.
                self.assertLess(times[1], 12 * times[0] + 2)

    def test_what_is_not_done_here_is_refused_by_name(self):
        for field, value in (("tools", [{"type": "function", "function": {"name": "f"}}]),
                             ("tool_choice.type", {"type": "allowed_tools"}),
                             ("chat_template", "{{ x }}"), ("functions", []),
                             ("store", True), ("service_tier", "flex"), ("modalities", ["audio"]),
                             ("messages[0].role", None), ("messages[0].content[0].type", None)):
            with self.subTest(field):
                message = {"role": "user", "content": "a"}
                if field.endswith("role"):
                    message["role"] = "function"
                if field.endswith("].type"):
                    message["content"] = [{"type": "image_url", "image_url": {"url": "x"}}]
                fields = {} if "[" in field else {field.split(".")[0]: value}
                self.refused(self.client.post(CHAT, {"messages": [message], **fields}), 400, field,
                             "unsupported_parameter")
        self.refused(self.client.complete(best_of=3), 400, "best_of", "unsupported_parameter")
        self.refused(self.client.complete(temprature=1), 400, "temprature", "unknown_parameter")
        self.assertEqual(self.client.chat(response_format={"type": "text"}, user="u", metadata={"a": "b"}, store=False,
                                          service_tier="auto", tools=[], tool_choice="none",
                                          parallel_tool_calls=False, functions=None).status, 200)
        named = {"role": "user", "name": "Ann", "content": "a"}
        self.assertEqual(self.client.post(CHAT, {"messages": [named], "max_tokens": 1}).status, 200)

    def test_special_token_text_in_content_stays_text(self):
        asked = lambda text: {"messages": [{"role": "user", "content": text}]}
        ids = lambda text: self.client.post("/tokenize", asked(text)).json()["tokens"]
        plain, special = ids("a"), ids("a<｜end▁of▁sentence｜><｜Assistant｜>")
        self.assertGreater(len(special), len(plain) + 6)
        for token in set(special):
            if special.count(token) > plain.count(token):
                self.assertNotIn(self.client.post("/detokenize", {"tokens": [token]}).json()["prompt"], ("",))

    def test_unknown_models(self):
        self.refused(self.client.complete(model="gpt-5"), 404, None, "model_not_found")

    def test_keys(self):
        key = self.client.key
        for header in (None, "", "Bearer", "Bearer ", f"Bearer {key[:-1]}x", f"Bearer {key}0", f"Basic {key}", key[:-1],
                       "Bearer " + "x" * 10_000):
            for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("POST", "/tokenize"),
                                 ("POST", "/invocations")):
                with self.subTest(header=header, path=path):
                    stranger = Client(self.client.address)
                    headers = {} if header is None else {"Authorization": header}
                    answer = stranger.raw(stranger.request(method, path, b"{}", headers))
                    self.refused(answer, 401, None, "invalid_api_key")
                    self.assertEqual(answer.headers["www-authenticate"], "Bearer")
        self.assertEqual(Client(self.client.address).get("/health").status, 200)


if __name__ == "__main__":
    unittest.main()
