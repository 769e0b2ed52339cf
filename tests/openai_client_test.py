"""The official `openai` Python package, unmodified, against the gateway. It is installed once, into an environment
apart from the checkout; where no package index can be reached the test says that it is skipped."""
import json
import os
import subprocess
import sys
import tempfile
import typing
import unittest

PACKAGES = ["openai>=1.40"]

if __name__ == "__main__" and "CONCLAVE_OPENAI_VENV" not in os.environ:
    import tool_venv
    python = tool_venv.ensure("openai", PACKAGES)
    if python is None:
        print("skipped: openai_client_test needs the package openai, which cannot be installed here")
        sys.exit(0)
    environment = {**os.environ, "CONCLAVE_OPENAI_VENV": "1"}
    sys.exit(subprocess.run([python, *sys.argv], env=environment).returncode)

import openai
import pydantic

from conclave_test_lib import DEMO_MODEL, Cluster, Gateway, run

QUESTION = [{"role": "user", "content": "What is a mixture of experts?"}]


class Author(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    born: typing.Optional[int] = None
    kind: typing.Literal["person", "group"]


class Book(pydantic.BaseModel):
    title: str = pydantic.Field(description="What it is called.", max_length=20)
    year: int = pydantic.Field(ge=1900, le=2100)
    authors: list[Author] = pydantic.Field(min_length=1, max_length=2)
    is_long: bool


class OpenAiClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        keys = [json.loads(run("key", "-o", "json").stdout) for _ in range(2)]
        cls.folder = tempfile.TemporaryDirectory()
        file = os.path.join(cls.folder.name, "keys.yaml")
        with open(file, "w") as out:
            out.write(f"tenants:\n  - name: free\n    keys: [\"{keys[0]['hash']}\"]\n"
                      f"  - name: poor\n    keys: [\"{keys[1]['hash']}\"]\n    requests-per-minute: 1\n")
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc", "--compute", "f32")
        cls.gateway = Gateway(cls.cluster, "--api-keys", file)
        host, port = cls.gateway.http()
        cls.url = f"http://{host}:{port}/v1"
        cls.poor_key = keys[1]["key"]
        cls.client = openai.OpenAI(base_url=cls.url, api_key=keys[0]["key"], max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.gateway.stop()
        cls.cluster.__exit__()
        cls.folder.cleanup()

    def chat(self, **fields):
        return self.client.chat.completions.create(
            **{"model": "demo", "messages": QUESTION, "temperature": 0, **fields})

    def test_chat(self):
        answer = self.chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertIn("expert", answer.choices[0].message.content)
        self.assertEqual((answer.choices[0].message.role, answer.choices[0].finish_reason), ("assistant", "stop"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertGreaterEqual(answer.usage.prompt_tokens_details.cached_tokens, 0)
        self.assertTrue(answer.system_fingerprint)
        # The answer goes back as a part of the conversation, as the package hands it out.
        again = self.chat(messages=[*QUESTION, answer.choices[0].message, {"role": "user", "content": "Who are you?"}],
                          max_tokens=8)
        self.assertTrue(again.choices[0].message.content)

    def test_streaming_with_usage(self):
        whole = self.chat()
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], whole.usage.completion_tokens))

    def test_the_packages_own_stream_helper(self):
        with self.client.chat.completions.stream(model="demo", messages=QUESTION, temperature=0) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, text)
        self.assertEqual(final.choices[0].finish_reason, "stop")

    def test_completions(self):
        answer = self.client.completions.create(model="demo", prompt="Once upon a time", max_tokens=5, temperature=0)
        self.assertEqual((answer.object, answer.usage.completion_tokens), ("text_completion", 5))
        stream = self.client.completions.create(model="demo", prompt="Once upon a time", max_tokens=5, temperature=0,
                                                stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in stream), answer.choices[0].text)
        several = self.client.completions.create(model="demo", prompt=["Once upon a time", "2 + 2 ="], max_tokens=5,
                                                 temperature=0)
        self.assertEqual([choice.index for choice in several.choices], [0, 1])
        self.assertEqual(several.choices[0].text, answer.choices[0].text)

    def test_an_answer_becomes_an_object_of_a_pydantic_model(self):
        answer = self.client.chat.completions.parse(model="demo", messages=QUESTION, temperature=1, seed=2,
                                                    max_tokens=900, response_format=Book)
        book = answer.choices[0].message.parsed
        self.assertIsInstance(book, Book)
        self.assertTrue(1900 <= book.year <= 2100 and 1 <= len(book.authors) <= 2 and len(book.title) <= 20, book)
        with self.client.chat.completions.stream(model="demo", messages=QUESTION, temperature=1, seed=2,
                                                 max_tokens=900, response_format=Book) as stream:
            self.assertEqual(stream.get_final_completion().choices[0].message.parsed, book)
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}})
        self.assertEqual(refused.exception.param, "response_format.json_schema.schema")

    def test_n_is_2(self):
        fields = {"messages": [{"role": "user", "content": "Once"}], "n": 2, "temperature": 2, "seed": 3,
                  "max_tokens": 24}
        answer = self.chat(**fields)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertNotEqual(answer.choices[0].message.content, answer.choices[1].message.content)
        texts = ["", ""]
        for chunk in self.chat(**fields, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(texts, [choice.message.content for choice in answer.choices])

    def test_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
        self.assertEqual(len(content), 4)
        for token in content:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].token, token.token)  # greedy
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(bytes(token.bytes).decode(), token.token)
        legacy = self.client.completions.create(model="demo", prompt="Once", max_tokens=3, temperature=0, logprobs=2)
        self.assertEqual([len(top) for top in legacy.choices[0].logprobs.top_logprobs], [2, 2, 2])

    def test_stop(self):
        whole = self.chat(max_tokens=20).choices[0].message.content
        stop = whole[10:14]
        choice = self.chat(max_tokens=20, stop=stop).choices[0]
        self.assertEqual((choice.message.content, choice.finish_reason), (whole[:whole.index(stop)], "stop"))

    def test_a_seed_gives_the_same_answer_again(self):
        once = [{"role": "user", "content": "Once"}]
        ask = lambda seed: self.chat(messages=once, temperature=2, seed=seed, max_tokens=24).choices[0].message.content
        self.assertEqual(ask(7), ask(7))
        self.assertGreater(len({ask(seed) for seed in range(4)}), 1)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").id, "demo")

    def test_typed_exceptions(self):
        with self.assertRaises(openai.BadRequestError) as bad:
            self.chat(temperature=-1)
        self.assertEqual((bad.exception.param, bad.exception.status_code), ("temperature", 400))
        with self.assertRaises(openai.BadRequestError) as unsupported:
            self.chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        self.assertEqual((unsupported.exception.param, unsupported.exception.code), ("tools", "unsupported_parameter"))
        self.assertIn("--tool-call-parser", str(unsupported.exception))
        with self.assertRaises(openai.BadRequestError) as long:
            self.chat(messages=[{"role": "user", "content": "a b c d " * 4000}])
        self.assertEqual(long.exception.code, "context_length_exceeded")
        self.assertIn("this model's maximum context length is 2048", str(long.exception))
        with self.assertRaises(openai.NotFoundError) as missing:
            self.chat(model="gpt-5")
        self.assertEqual(missing.exception.code, "model_not_found")
        with openai.OpenAI(base_url=self.url, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(openai.AuthenticationError) as refused:
                stranger.models.list()
            self.assertEqual(refused.exception.code, "invalid_api_key")

    def test_a_rate_limit_is_its_own_exception_and_says_when_to_come_back(self):
        with openai.OpenAI(base_url=self.url, api_key=self.poor_key, max_retries=0) as poor:
            ask = lambda: poor.completions.create(model="demo", prompt="a", max_tokens=1)
            ask()
            with self.assertRaises(openai.RateLimitError) as limited:
                ask()
        self.assertEqual(limited.exception.code, "rate_limit_exceeded")
        self.assertIn("requests_per_minute", limited.exception.message)
        self.assertGreaterEqual(int(limited.exception.response.headers["retry-after"]), 1)


FUNCTION = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


class FunctionCallsTest(unittest.TestCase):
    """The demo model was never taught to call functions: calls are forced, so that there are some."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc", "--compute", "f32")
        cls.gateway = Gateway(cls.cluster, "--tool-call-parser", "hermes")
        host, port = cls.gateway.http()
        cls.client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="any", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.gateway.stop()
        cls.cluster.__exit__()

    def chat(self, **fields):
        return self.client.chat.completions.create(**{
            "model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 12, "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, **fields})

    def test_a_named_function_is_called_and_its_result_goes_back(self):
        answer = self.chat()
        message = answer.choices[0].message
        [call] = message.tool_calls
        self.assertEqual((call.type, call.function.name, message.content), ("function", "get_weather", None))
        self.assertTrue(call.id.startswith("call_"))
        self.assertIn(answer.choices[0].finish_reason, ("tool_calls", "length"))
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        final = self.chat(messages=[*QUESTION, message, result], tool_choice="auto")
        self.assertTrue(final.choices[0].message.content)
        self.assertIsNone(final.choices[0].message.tool_calls)
        with self.assertRaises(openai.BadRequestError) as other:
            self.chat(messages=[*QUESTION, message, {**result, "tool_call_id": "call_other"}])
        self.assertEqual(other.exception.param, "messages[2].tool_call_id")

    def test_a_stream_comes_to_the_same_call(self):
        whole = self.chat().choices[0]
        name, arguments, finish, ids = "", "", None, set()
        for chunk in self.chat(stream=True):
            [choice] = chunk.choices
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                self.assertEqual(part.index, 0)
                ids |= {part.id} - {None}
                name += part.function.name or ""
                arguments += part.function.arguments
        self.assertEqual((name, arguments, finish), ("get_weather", whole.message.tool_calls[0].function.arguments,
                                                     whole.finish_reason))
        self.assertEqual(len(ids), 1)

    def test_without_a_call_the_answer_is_text(self):
        for choice in ("auto", "none"):
            answer = self.chat(tool_choice=choice).choices[0]
            self.assertTrue(answer.message.content)
            self.assertIsNone(answer.message.tool_calls)
        plain = self.client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=12)
        self.assertEqual(answer.message.content, plain.choices[0].message.content)  # none: it is not told of them

    def test_what_is_wrong_is_named(self):
        unnamed = {"type": "function", "function": {"name": "a b"}}
        for fields, param in (({"tools": [unnamed]}, "tools[0].function.name"),
                              ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
                              ({"tools": [FUNCTION] * 2}, "tools[1].function.name"),
                              ({"tools": [FUNCTION] * 129}, "tools")):
            with self.assertRaises(openai.BadRequestError) as bad:
                self.chat(**fields)
            self.assertEqual((bad.exception.status_code, bad.exception.param), (400, param))


if __name__ == "__main__":
    unittest.main()
