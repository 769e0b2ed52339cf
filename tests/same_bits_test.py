"""The bits of an answer depend on model, prompt, sampling parameters and seed, and on nothing else.

For each numeric profile (f32, bf16) and each way to sample, one answer is the measure: ids and a hash over the float32
logits of every step. Every other way to run the same request must give the same: any number of shards, either
transport, alone or beside seven other requests, the prompt at once or in chunks, in one process or through a gateway.
CONCLAVE_TEST_DEVICE=cuda does the same on a GPU, over NCCL too and with fp8.
"""
import itertools
import unittest

from conclave_test_lib import DEMO_MODEL, DEVICE, FULL, TRANSPORTS, Cluster, generate

PROMPT = ("The old lighthouse keeper counted the ships twice, because the first time he had been thinking of his "
          "sister, and the second time of the storm that was coming.")
SAMPLINGS = {"greedy": ["--temperature", 0], "sampled": ["--temperature", 0.8, "--seed", 20231]}
POOLS = [[]] + [["--shards", shards, "--transport", transport]
                for transport in (["inproc", "grpc", "ucx"] if DEVICE == "cpu" else ["inproc", *TRANSPORTS])
                for shards in ((1, 2, 3, 5, 8) if DEVICE == "cpu" else (2, 3))]
# (other requests at the same time, prompt rows in one step). 1 is decode's own shape: one row at a time.
COMPANY = [(0, 0), (7, 0), (0, 16), (7, 5)]
REQUEST = ["--prompt", PROMPT, "--max-tokens", 40, "--ignore-eos", "--hash-logits"]


def bits_of(result):
    return (tuple(result["prompt_ids"]), tuple(result["ids"]), result["logits_hash"])


def run_here(compute, sampling, pool, company=(0, 0)):
    beside, chunk = company
    extra = (["--beside", beside] if beside else []) + (["--prefill-chunk", chunk] if chunk else [])
    return bits_of(generate("--model", DEMO_MODEL, "--device", DEVICE, "--compute", compute, *REQUEST,
                            *SAMPLINGS[sampling], *pool, *extra))


class SameBitsTest(unittest.TestCase):
    def check(self, compute):
        variants = list(itertools.product(SAMPLINGS, POOLS, COMPANY))
        if not FULL:
            # Every pool once with each sampling; every company with each pool in turn.
            variants = [v for i, v in enumerate(variants) if COMPANY.index(v[2]) == (i // len(COMPANY)) % len(COMPANY)]
        expected = {sampling: run_here(compute, sampling, []) for sampling in SAMPLINGS}
        for sampling, pool, company in variants:
            with self.subTest(compute=compute, sampling=sampling, pool=pool, company=company):
                self.assertEqual(run_here(compute, sampling, pool, company), expected[sampling])
        with Cluster("--model", DEMO_MODEL, "--device", DEVICE, "--shards", 3, "--compute", compute) as cluster:
            for sampling in SAMPLINGS:
                with self.subTest(compute=compute, sampling=sampling, pool="processes"):
                    got = generate("--gateway", cluster.gateway(), *REQUEST, *SAMPLINGS[sampling])
                    self.assertEqual(bits_of(got), expected[sampling])
        return expected

    def test_f32(self):
        self.check("f32")

    def test_bf16(self):
        self.check("bf16")

    @unittest.skipIf(DEVICE == "cpu", "fp8 is the GPU's")
    def test_fp8(self):
        self.check("fp8")

    def test_the_hash_tells_answers_apart(self):
        hashes = {run_here(compute, sampling, [])[2] for compute in ("f32", "bf16") for sampling in SAMPLINGS}
        self.assertEqual(len(hashes), 4)


if __name__ == "__main__":
    unittest.main()
