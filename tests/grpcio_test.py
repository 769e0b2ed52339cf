"""A gRPC client that we did not write: Python's grpcio, which learns everything by reflection."""
import subprocess
import unittest

import tool_venv
from conclave_test_lib import DEMO_MODEL, Cluster

CLIENT = r'''
import sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from google.rpc import error_details_pb2

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
assert "conclave.v1.InferenceService" in database.get_services(), database.get_services()
pool = DescriptorPool(database)
service = pool.FindServiceByName("conclave.v1.InferenceService")
types = {m.name: (GetMessageClass(m.input_type), GetMessageClass(m.output_type)) for m in service.methods}


def call(method, **fields):
    request, response = types[method]
    path = f"/conclave.v1.InferenceService/{method}"
    kind = channel.unary_stream if method in ("Generate", "Chat") else channel.unary_unary
    return kind(path, request_serializer=request.SerializeToString, response_deserializer=response.FromString)(
        request(**fields), timeout=60)


def text(messages, index=0):
    return "".join(m.text for m in messages if m.index == index)


# Models, tokens and back.
model = call("ListModels").models[0]
assert model.vocab_size > 0 and model.context_tokens_max > 0
ids = call("Tokenize", text="Once upon a time").ids
assert call("Detokenize", ids=ids).text == "Once upon a time"

# Chat, streamed.
question = [{"role": "user", "content": "What is a mixture of experts?"}]
chat = list(call("Chat", messages=question, options={"max_tokens": 60, "sampling": {"temperature": 0}}))
assert len(chat) > 5, "not streamed"
assert "expert" in text(chat)
assert chat[0].system_fingerprint and chat[0].prompt_ids
assert chat[-1].usage.completion_tokens > 5 and chat[-1].finish_reason in ("stop", "length")

# A deadline in mid-answer is the request's, whatever was under way, and no shard is blamed for it.
request, response = types["Generate"]
generate = channel.unary_stream("/conclave.v1.InferenceService/Generate", request_serializer=request.SerializeToString,
                                response_deserializer=response.FromString)
for seconds in [0.02, 0.05, 0.1] * 3:
    try:
        list(generate(request(text="Once", max_tokens=1900, ignore_eos=True), timeout=seconds))
        raise AssertionError(f"1,900 tokens within {seconds} s")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

# Seeds: the same twice, another otherwise; n answers of one seed differ and are each reproducible.
sampled = {"temperature": 1.0, "seed": 7}
story = {"text": "Once upon a time", "max_tokens": 24, "sampling": sampled}
ask = lambda **more: list(call("Generate", **{**story, **more}))
first = text(ask())
assert first == text(ask())
assert first != text(ask(sampling={**sampled, "seed": 8}))
pair = ask(n=2)
assert (text(pair, 0), text(pair, 1)) == (first, text(ask(n=2), 1))
assert text(pair, 0) != text(pair, 1)
assert sum(m.HasField("usage") for m in pair) == 1

# Log probabilities, of the prompt too.
greedy = {"temperature": 0}
scored = ask(sampling=greedy, logprobs=3)
chosen = [p for m in scored for p in m.logprobs]
assert len(chosen) == 24 and all(len(p.top) == 3 for p in chosen)
assert all(p.id == p.top[0].id and abs(p.logprob - p.top[0].logprob) < 1e-6 for p in chosen), "greedy is the likeliest"
assert b"".join(p.token for p in chosen).decode(errors="replace") == text(scored)
echoed = ask(sampling=greedy, logprobs=0, echo=True)
assert text(echoed).startswith("Once upon a time")
assert len(echoed[0].prompt_logprobs) == len(echoed[0].prompt_ids)
read = ask(sampling=greedy, logprobs=0, echo=True, max_tokens=0)
assert (text(read), read[-1].finish_reason, read[-1].usage.completion_tokens) == ("Once upon a time", "length", 0)
assert list(read[0].prompt_logprobs) == list(echoed[0].prompt_logprobs)

# Stops.
whole = text(ask(sampling=greedy))
stop = whole[len(whole) // 2:len(whole) // 2 + 4]
stopped = ask(sampling=greedy, stop=[stop])
assert text(stopped) == whole[:whole.index(stop)], (text(stopped), whole)
assert stopped[-1].finish_reason == "stop"

# A refusal says which field, in the standard words.
try:
    ask(n=1000000)
    raise SystemExit("n = 1000000 was taken")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(details)
    assert details.field_violations[0].field == "n"
print("all good")
'''


class GrpcioTest(unittest.TestCase):
    def test_a_python_client_by_reflection(self):
        python = tool_venv.ensure("grpcio", ["grpcio", "grpcio-reflection", "grpcio-status", "protobuf"])
        if python is None:
            print("SKIPPED: grpcio cannot be installed here, so no foreign gRPC client was tried")
            self.skipTest("grpcio cannot be installed")
        with Cluster("--model", DEMO_MODEL, "--shards", 2) as cluster:
            result = subprocess.run([python, "-c", CLIENT, cluster.gateway()], capture_output=True, text=True,
                                    timeout=300)
            self.assertEqual((result.returncode, result.stdout), (0, "all good\n"), result.stdout + result.stderr)


if __name__ == "__main__":
    unittest.main()
