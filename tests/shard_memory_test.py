"""Each shard keeps no more than its share of the experts in memory, and the attention service keeps none.

On a `make-model` checkpoint with more than 1 GB of experts and four shards, after prompts that touch every expert: a
shard's resident memory is at most a quarter of the stored expert bytes + 10% + 64 MiB, in f32 and in bf16.
"""
import json
import os
import re
import tempfile
import unittest

from conclave_test_lib import DTYPE_SIZES, Cluster, clean_environment, generate, read_header, run

MIB = 1 << 20
SHARDS = 4
# Large experts, little else: 3 MoE layers of 32 experts of 3 * 1024 * 2048 bf16 values are 1.2 GB.
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 1024, "hidden_size": 1024,
    "intermediate_size": 1024, "moe_intermediate_size": 2048, "num_hidden_layers": 4, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "num_nextn_predict_layers": 0, "n_routed_experts": 32, "n_shared_experts": 1, "n_group": 4,
    "topk_group": 4, "num_experts_per_tok": 8, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_attention_heads": 4, "num_key_value_heads": 4,
    "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}
EXPERT = re.compile(r"model\.layers\.\d+\.mlp\.experts\.\d+\.")


def weight_files(model):
    return sorted(os.path.join(model, name) for name in os.listdir(model) if name.endswith(".safetensors"))


def stored_bytes(model):
    """Bytes of the routed experts, and of everything else."""
    experts = others = 0
    for path in weight_files(model):
        for name, entry in read_header(path)[0].items():
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            if EXPERT.match(name):
                experts += size
            else:
                others += size
    return experts, others


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * 1024


def mapped_file_bytes(pid, directory):
    """Address space and resident bytes of the process's mappings of files below `directory`."""
    size = resident = 0
    inside = False
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = directory in line
                if inside:
                    begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                    size += end - begin
            elif inside and line.startswith("Rss:"):
                resident += int(line.split()[1]) * 1024
    return size, resident


class ShardMemoryTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.model = os.path.join(cls.directory.name, "model")
        config = os.path.join(cls.directory.name, "config.json")
        with open(config, "w") as file:
            json.dump(CONFIG, file)
        result = run("make-model", "--config", config, "--dtype", "bf16", "--seed", 1, "--out", cls.model,
                     environment=clean_environment())
        assert result.returncode == 0, result.stderr
        cls.expert_bytes, cls.other_bytes = stored_bytes(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def touch_every_expert(self, cluster):
        """Runs prompts until every expert of every layer has had a row."""
        used = {}
        for seed in range(40):
            prompt = f"{seed} {seed * 7919} letters and numbers " * 12
            result = generate("--gateway", cluster.gateway(), "--prompt", prompt,
                              "--max-tokens", 16, "--temperature", 1, "--seed", seed, "--ignore-eos", "--show-experts")
            for layer in result["expert_use"]:
                used.setdefault(layer["layer"], set()).update(i for i, n in enumerate(layer["tokens"]) if n)
            if seed >= 3 and all(len(experts) == CONFIG["n_routed_experts"] for experts in used.values()):
                self.assertEqual(len(used), 3)
                return
        self.fail(f"some experts never had a row: { {layer: len(experts) for layer, experts in used.items()} }")

    def check(self, compute):
        limit = self.expert_bytes / SHARDS * 1.1 + 64 * MIB
        with Cluster("--model", self.model, "--shards", SHARDS, "--compute", compute) as cluster:
            self.touch_every_expert(cluster)
            shards = cluster.processes("expert")
            self.assertEqual(len(shards), SHARDS)
            for shard in shards:
                resident = resident_bytes(shard["pid"])
                print(f"{compute} {shard['name']}: {resident / MIB:.0f} MiB resident, "
                      f"at most {limit / MIB:.0f} allowed")
                self.assertLessEqual(resident, limit, shard["name"])
                # The test would prove nothing if the shard's experts had not been in use.
                self.assertGreater(resident, self.expert_bytes / SHARDS * 0.9, shard["name"])
            router = cluster.processes("router")[0]
            size, resident = mapped_file_bytes(router["pid"], self.model)
            print(f"{compute} router: maps {size / MIB:.1f} MiB of the model's files, "
                  f"{resident / MIB:.1f} MiB resident, for {self.other_bytes / MIB:.1f} MiB besides the experts")
            # Mappings are made of whole pages: at most two partial ones for each tensor.
            allowed = self.other_bytes + 2 * 4096 * sum(
                not EXPERT.match(name) for path in weight_files(self.model) for name in read_header(path)[0])
            self.assertLessEqual(size, allowed)
            self.assertEqual(cluster.stop(), 0, cluster.text(cluster.errors))

    def test_checkpoint_is_large_enough(self):
        self.assertGreaterEqual(self.expert_bytes, 10**9)
        names = [name for path in weight_files(self.model) for name in read_header(path)[0] if EXPERT.match(name)]
        self.assertEqual(len(names), 3 * 32 * 3)
        self.assertTrue(all(DTYPE_SIZES[e["dtype"]] == 2 for path in weight_files(self.model)
                            for n, e in read_header(path)[0].items() if EXPERT.match(n)))

    def test_f32(self):
        self.check("f32")

    def test_bf16(self):
        self.check("bf16")


if __name__ == "__main__":
    unittest.main()
