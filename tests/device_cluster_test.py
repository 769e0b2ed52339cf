"""An attention service and two shards as three processes on one GPU, over every transport: a single process's ids and
hashes, also when a shard is killed in mid-stream. Runs where CONCLAVE_TEST_DEVICE names a GPU
(CONCLAVE_TEST_SHARD_DEVICE: the shards on another one; CONCLAVE_TEST_COMPUTE: in which numbers;
CONCLAVE_TEST_TRANSPORTS: over which of nccl,ucx,grpc); on one GPU NCCL needs MPS to be fast."""
import glob
import json
import os
import signal
import subprocess
import time
import unittest
import urllib.request

from conclave_test_lib import (CONCLAVE, DEMO_MODEL, DEVICE, SHARD_DEVICE, TRANSPORTS, Cluster, clean_environment,
                               generate)

COMPUTE = os.environ.get("CONCLAVE_TEST_COMPUTE", "bf16")
TARGET = ["--device", DEVICE, "--compute", COMPUTE]
SHARDS = ["--shards", 2, "--expert-flags", f"device={SHARD_DEVICE}"]
PROMPT = "The old lighthouse keeper counted the ships twice,"


def request(tokens, hashed=True):
    return (["--prompt", PROMPT, "--max-tokens", tokens, "--temperature", 0, "--ignore-eos"] +
            ["--hash-logits"] * hashed)


def bits_of(result):
    return tuple(result["ids"]), result["logits_hash"]


@unittest.skipIf(DEVICE == "cpu", "needs a GPU: CONCLAVE_TEST_DEVICE=cuda")
class DeviceClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = {n: bits_of(generate("--model", DEMO_MODEL, *TARGET, *request(n))) for n in (24, 400)}

    def test_ids_are_the_same_where_only_they_leave_the_device(self):
        ids = generate("--model", DEMO_MODEL, *TARGET, *request(400, hashed=False))["ids"]
        self.assertEqual(tuple(ids), self.expected[400][0])

    def test_the_device_draws_the_ids_that_the_host_draws_from_its_logits(self):
        for sampling in (["--temperature", 1], ["--temperature", 0.8, "--top-p", 0.9],
                         ["--temperature", 1.3, "--top-k", 40], ["--temperature", 0.7, "--top-k", 50, "--top-p", 0.8]):
            with self.subTest(sampling=sampling):
                here = ["--model", DEMO_MODEL, *TARGET, "--prompt", PROMPT, "--max-tokens", 200, "--ignore-eos",
                        "--seed", 7, *sampling]
                self.assertEqual(generate(*here)["ids"], generate(*here, "--hash-logits")["ids"])

    def test_log_probabilities_from_the_device_are_those_that_the_host_computes(self):
        body = {"model": "demo", "prompt": PROMPT, "max_tokens": 80, "ignore_eos": True, "temperature": 0.9, "seed": 7,
                "frequency_penalty": 0.6, "logit_bias": {"300": 2.5}, "logprobs": 5}
        with Cluster("--model", DEMO_MODEL, *TARGET, *SHARDS, "--transport", "grpc") as cluster:
            choices = []
            for hashed in (False, True):  # hashed logits come to the host, and so does all that is made of them
                request = urllib.request.Request("http://{}:{}/v1/completions".format(*cluster.http()),
                                                 json.dumps({**body, "hash_logits": hashed}).encode(),
                                                 {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=60) as reply:
                    choices.append(json.load(reply)["choices"][0])
        self.assertEqual(len(choices[0]["logprobs"]["token_logprobs"]), 80)
        self.assertEqual(choices[0]["logprobs"], choices[1]["logprobs"])

    def check(self, transport):
        with Cluster("--model", DEMO_MODEL, *TARGET, *SHARDS, "--replicas", 1, "--transport", transport) as cluster:
            times = []
            for _ in range(5):
                begin = time.monotonic()
                got = bits_of(generate("--gateway", cluster.gateway(), *request(24)))
                times.append(time.monotonic() - begin)
                self.assertEqual(got, self.expected[24])
            stream = subprocess.Popen([CONCLAVE, "generate", "-o", "json", "--gateway", cluster.gateway(),
                                       *map(str, request(400))], stdout=subprocess.PIPE, text=True,
                                      env=clean_environment())
            time.sleep(0.35)
            running = stream.poll() is None
            killed = time.monotonic()
            os.kill(cluster.processes("expert")[1]["pid"], signal.SIGKILL)
            output, _ = stream.communicate(timeout=60)
            after = time.monotonic() - killed
            log = cluster.text(cluster.errors)
            self.assertEqual(stream.returncode, 0, log)
            self.assertEqual(bits_of(json.loads(output)), self.expected[400], log)
            begin = time.monotonic()
            self.assertEqual(bits_of(generate("--gateway", cluster.gateway(), *request(24))), self.expected[24])
            for path in glob.glob(os.path.join(cluster.run_dir, "**", "router*.log"), recursive=True):
                with open(path) as file:
                    print(*(line for line in file if "activations over" in line), sep="", end="")
            print(f"{transport}: 24 tokens {sorted(times)[2] * 1e3:.0f} ms (client's start included); killed in "
                  f"mid-stream: {running}, over {after * 1e3:.0f} ms later; the next answer "
                  f"{1e3 * (time.monotonic() - begin):.0f} ms",
                  flush=True)

    def test_nccl(self):
        self.check_if_asked("nccl")

    def test_ucx(self):
        self.check_if_asked("ucx")

    def test_grpc(self):
        self.check_if_asked("grpc")

    def check_if_asked(self, transport):
        if transport not in TRANSPORTS:
            self.skipTest(f"CONCLAVE_TEST_TRANSPORTS does not name {transport}")
        self.check(transport)


if __name__ == "__main__":
    unittest.main()
