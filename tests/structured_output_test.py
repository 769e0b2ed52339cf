"""Answers that hold to a JSON Schema, a regular expression or a list of texts: whatever the model would rather say,
whoever runs beside it, and where an attention service is killed in mid-answer."""
import concurrent.futures
import json
import os
import re
import signal
import tempfile
import unittest
import urllib.request

from conclave_test_lib import DEMO_MODEL, Cluster, eventually, generate
from http_client import Client

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object",
          "properties": {"sentence": {"type": "string", "maxLength": 40},
                         "kind": {"enum": ["a question", "an answer", None]},
                         "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 100},
                                    "minItems": 2, "maxItems": 4},
                         "further": {"type": "boolean"}},
          "required": ["sentence", "kind", "scores", "further"], "additionalProperties": False}


def named(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


class StructuredOutputTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--routers", 2, "--shards", 1, "--compute", "f32")
        host, port = cls.cluster.http()
        cls.client = Client((host, port))

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def ask(self, **fields):
        return self.client.post(CHAT, {"messages": [{"role": "user", "content": "What is a mixture of experts?"}],
                                       "temperature": 1, "max_tokens": 900, **fields}, timeout=120)

    def text(self, **fields):
        answer = self.ask(**fields)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json()["choices"][0]
        self.assertEqual(choice["finish_reason"], "stop", choice)
        return choice["message"]["content"]

    def check(self, text):
        value = json.loads(text)
        self.assertEqual(list(value), list(SCHEMA["properties"]), "their order is the schema's, not the alphabet's")
        self.assertLessEqual(len(value["sentence"]), 40)
        self.assertIn(value["kind"], SCHEMA["properties"]["kind"]["enum"])
        self.assertTrue(2 <= len(value["scores"]) <= 4, text)
        self.assertTrue(all(type(score) is int and 0 <= score <= 100 for score in value["scores"]), text)
        self.assertIs(type(value["further"]), bool)

    def test_every_seed_gives_an_instance_of_the_schema_alone_and_beside_others(self):
        alone = [self.text(response_format=named(SCHEMA), seed=seed) for seed in range(6)]
        for text in alone:
            self.check(text)
        self.assertGreater(len(set(alone)), 3, "the model has a say in it")
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            noise = [pool.submit(self.ask, seed=seed, max_tokens=40) for seed in range(3)]
            beside = [pool.submit(self.text, response_format=named(SCHEMA), seed=seed) for seed in range(6)]
            self.assertEqual([answer.result() for answer in beside], alone)
            self.assertEqual({answer.result().status for answer in noise}, {200})

    def test_streams_and_several_answers(self):
        fields = {"response_format": named(SCHEMA), "seed": 3, "n": 3}
        whole = [choice["message"]["content"] for choice in self.ask(**fields).json()["choices"]]
        streamed = ["", "", ""]
        for event in self.ask(**fields, stream=True).events()[:-1]:
            for choice in event["choices"]:
                streamed[choice["index"]] += choice["delta"].get("content") or ""
        self.assertEqual(streamed, whole)
        for text in whole:
            self.check(text)

    def test_other_formats(self):
        for seed in range(4):  # small models may go on with a text for as long as they may
            choice = self.ask(response_format={"type": "json_object"}, seed=seed).json()["choices"][0]
            text = choice["message"]["content"]
            self.assertTrue(text.startswith("{"), text)
            if choice["finish_reason"] == "stop":
                self.assertIsInstance(json.loads(text), dict)
        self.check(self.text(structured_outputs={"json": SCHEMA}, seed=1))
        self.check(self.text(guided_json=json.dumps(SCHEMA), seed=2))
        self.assertRegex(self.text(guided_regex=r"[A-Z][a-z]{3,8}, \d{4}\.", seed=1), r"^[A-Z][a-z]{3,8}, \d{4}\.$")
        self.assertIn(self.text(structured_outputs={"choice": ["expert", "gate", "日本"]}), ["expert", "gate", "日本"])
        completion = self.client.post("/v1/completions", {"prompt": "The year ", "temperature": 1, "seed": 4,
                                                          "structured_outputs": {"regex": "(19|20)[0-9]{2}"}}).json()
        self.assertRegex(completion["choices"][0]["text"], "^(19|20)[0-9]{2}$")

    def test_an_answer_that_is_cut_off_is_the_beginning_of_one(self):
        choice = self.ask(response_format=named(SCHEMA), max_tokens=3).json()["choices"][0]
        self.assertEqual(choice["finish_reason"], "length")
        self.assertTrue(choice["message"]["content"].startswith("{"))

    def test_what_is_not_supported_is_named_by_its_place(self):
        for fields, param, text in (
                ({"response_format": named({"properties": {"a": {"uniqueItems": True}}})},
                 "response_format.json_schema.schema", "#/properties/a/uniqueItems: this keyword is not supported"),
                ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
                 "response_format.json_schema.name", "letters"),
                ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
                ({"guided_regex": "(?=a)"}, "guided_regex", "(?="),
                ({"guided_json": {"$ref": "#"}}, "guided_json", "no answer can satisfy it"),
                ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "stands beside"),
                ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "not"),
                ({"response_format": named({}), "ignore_eos": True}, "ignore_eos", "grammar"),
                ({"response_format": named({}), "tools": [{"type": "function", "function": {"name": "f"}}]},
                 "response_format", "tools")):
            with self.subTest(param=param):
                answer = self.ask(**fields)
                self.assertEqual((answer.status, answer.error()["param"]), (400, param), answer.body)
                self.assertIn(text, answer.error()["message"])
        self.assertEqual(self.ask(max_tokens=1).status, 200)

    def test_the_command_takes_a_schema_by_a_gateway_and_here(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "schema.json")
            with open(path, "w") as file:
                json.dump(SCHEMA, file)
            flags = ["--prompt", "What is an expert?", "--chat", "--json-schema", path, "--temperature", "1", "--seed",
                     "5", "--max-tokens", "900"]
            there = generate("--gateway", self.cluster.gateway(), *flags)
            here = generate("--model", DEMO_MODEL, "--compute", "f32", *flags)
        self.check(there["text"])
        self.assertEqual((here["text"], here["ids"]), (there["text"], there["ids"]))

    def test_z_a_killed_attention_service_changes_no_byte(self):
        long = {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 12}, "minItems": 40,
                "maxItems": 45}
        fields = {"response_format": named(long), "seed": 7, "max_tokens": 1000}
        undisturbed = self.text(**fields)
        self.assertGreaterEqual(len(json.loads(undisturbed)), 40)
        before = self.gateway_says("conclave_gateway_generated_tokens_total")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.text, **fields)
            self.assertTrue(eventually(
                lambda: self.gateway_says("conclave_gateway_generated_tokens_total") > before + 30))
            busy = max(self.cluster.processes("router"), key=lambda router: self.gateway_says(
                f'conclave_gateway_router_load{{router="{router["grpc"]}"}}'))
            os.kill(busy["pid"], signal.SIGKILL)
            self.assertEqual(answer.result(timeout=120), undisturbed)
        self.assertGreater(self.gateway_says("conclave_gateway_streams_resumed_total"), 0)

    def gateway_says(self, name):
        with urllib.request.urlopen(f"http://{self.cluster.processes('gateway')[0]['metrics']}/metrics",
                                    timeout=10) as page:
            found = re.search("^" + re.escape(name) + r" (\S+)$", page.read().decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


if __name__ == "__main__":
    unittest.main()
