#!/usr/bin/env python3
"""Measures how the cost of decoding grows with active experts, context and batch, and plots it beside a model.

  python3 tools/plots/moe_cost.py --model DIR            measures, writes docs/plots/moe_cost.json and the plots
  python3 tools/plots/moe_cost.py --plot-only            draws docs/plots/moe_cost.json again

DIR is a model of `conclave make-model`: its random weights spread tokens evenly over experts, which the model assumes.
The model: a step reads the weights that its rows need and their KV cache once, at the bandwidth that plain reads reach
in the same run; the products of attention, in float32, run at the rate of dot products in registers. Needs matplotlib
(python3-matplotlib) for the plots, a CPU with AVX-512 for the ceilings, and `bazel build //cli:conclave` before.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP_K = [1, 2, 4, 6, 8, 16, 32, 64]
DEPTHS = [1, 256, 512, 1024, 2048, 4096]
STREAMS = [1, 2, 4, 8, 16, 32]
ANSWER_TOKENS = 48


def bench_model(model, threads, *flags):
    """Tokens per second by the figure's name, as `conclave bench-model` prints them."""
    command = [ROOT / "bazel-bin/cli/conclave", "bench-model", "--model", model, "--threads", str(threads),
               "-o", "json", "--prompt-tokens", "0", "--repetitions", "1", *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {figure["name"]: figure["tokens_per_second"] for figure in json.loads(output)["figures"]}


def ceilings(threads):
    """(GB/s of plain reads, GFLOP/s of float32 dot products in registers), on all threads."""
    command = [ROOT / "bazel-bin/cli/conclave", "bench-kernels", "--threads", str(threads), "--isa", "avx512",
               "--seconds", "0.05", "-o", "json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures["read_gb_per_s"], next(d["gflop_per_s"] for d in figures["dots"] if d["compute"] == "f32")


def with_top_k(model, top_k, directory):
    """The same weights under a config that activates `top_k` experts; every group may be chosen from."""
    config = json.loads((model / "config.json").read_text())
    config.update(num_experts_per_tok=top_k, topk_group=config["n_group"])
    directory.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            os.link(file, directory / file.name)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def measure(model, threads, rounds):
    samples = {"top_k": {k: [] for k in TOP_K}, "depth": {d: [] for d in DEPTHS}, "streams": {s: [] for s in STREAMS}}
    limits = []
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        variants = {k: with_top_k(model, k, Path(scratch) / f"top{k}") for k in TOP_K}
        for number in range(rounds):
            limits.append(ceilings(threads))
            for k, directory in variants.items():
                figures = bench_model(directory, threads, "--answer-tokens", str(ANSWER_TOKENS), "--streams", "")
                samples["top_k"][k] += figures.values()
            depths = ",".join(str(d) for d in DEPTHS[1:])
            figures = bench_model(model, threads, "--answer-tokens", str(ANSWER_TOKENS), "--depths", depths,
                                  "--streams", "")
            for depth, speed in zip(DEPTHS, figures.values()):
                samples["depth"][depth].append(speed)
            streams = ",".join(str(s) for s in STREAMS)
            figures = bench_model(model, threads, "--answer-tokens", "0", "--streams", streams)
            for count, speed in zip(STREAMS, figures.values()):
                samples["streams"][count].append(speed)
            print(f"round {number + 1} of {rounds}", flush=True)
    medians = {name: {str(x): statistics.median(speeds) for x, speeds in points.items()}
               for name, points in samples.items()}
    return {"threads": threads, "rounds": rounds, "read_gbps": statistics.median(r for r, _ in limits),
            "float32_gflops": statistics.median(f for _, f in limits),
            "config": json.loads((model / "config.json").read_text()), "tokens_per_second": medians}


class CostModel:
    """Bytes and operations of a step, in the terms of DeepSeek-V3's config.json; weights in bfloat16, KV in float32."""

    def __init__(self, data):
        c = self.config = data["config"]
        self.bytes_per_second = data["read_gbps"] * 1e9
        self.attention_flops = data["float32_gflops"] * 1e9
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        latent, rope = c["kv_lora_rank"], c["qk_rope_head_dim"]
        attention = (hidden * c["q_lora_rank"] + c["q_lora_rank"] * heads * (c["qk_nope_head_dim"] + rope)
                     + hidden * (latent + rope) + latent * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
                     + heads * c["v_head_dim"] * hidden)
        dense = c["first_k_dense_replace"]
        self.moe_layers = c["num_hidden_layers"] - dense
        self.expert_bytes = 2 * 3 * hidden * c["moe_intermediate_size"]
        self.fixed_bytes = 2 * (attention * c["num_hidden_layers"] + dense * 3 * hidden * c["intermediate_size"]
                                + self.moe_layers * hidden * c["n_routed_experts"] + hidden * c["vocab_size"]
                                ) + self.moe_layers * c["n_shared_experts"] * self.expert_bytes
        self.kv_bytes = 4 * (latent + rope) * c["num_hidden_layers"]
        self.kv_flops = heads * 2 * (2 * latent + rope) * c["num_hidden_layers"]

    def seconds(self, rows=1, top_k=None, depth=1):
        experts, top_k = self.config["n_routed_experts"], top_k or self.config["num_experts_per_tok"]
        distinct = experts * (1 - (1 - top_k / experts) ** rows)
        read = self.fixed_bytes + self.moe_layers * distinct * self.expert_bytes + rows * depth * self.kv_bytes
        return read / self.bytes_per_second + rows * depth * self.kv_flops / self.attention_flops


def plot(data, out):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "conclave", "font.size": 9})
    model = CostModel(data)
    milliseconds = lambda _, speed: 1e3 / speed
    panels = [
        ("top_k", "experts active of 64", "ms a token", milliseconds, lambda x: 1e3 * model.seconds(top_k=x)),
        ("top_k", "experts active of 64", "tokens/s", lambda x, speed: speed, lambda x: 1 / model.seconds(top_k=x)),
        ("depth", "tokens of context", "ms a token", milliseconds, lambda x: 1e3 * model.seconds(depth=x)),
        ("streams", "streams", "tokens/s, all together", lambda x, speed: speed, lambda x: x / model.seconds(rows=x)),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3), constrained_layout=True)
    for axis, (name, x_label, y_label, seen, expected) in zip(axes, panels):
        points = {int(x): speed for x, speed in data["tokens_per_second"][name].items()}
        measured = [seen(x, speed) for x, speed in points.items()]
        axis.plot(list(points), measured, "o-", color="#1f77b4", label="measured")
        axis.plot(list(points), [expected(x) for x in points], "--", color="#888888",
                  label="model: bytes and operations")
        axis.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(out / "moe_cost.svg", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/plots")
    parser.add_argument("--plot-only", action="store_true")
    args = parser.parse_args()
    data_file = args.out / "moe_cost.json"
    if not args.plot_only:
        if args.model is None:
            parser.error("--model DIR is needed, or --plot-only")
        args.out.mkdir(parents=True, exist_ok=True)
        data_file.write_text(json.dumps(measure(args.model.resolve(), args.threads, args.rounds), indent=1) + "\n")
    data = json.loads(data_file.read_text())
    plot(data, args.out)
    speeds = data["tokens_per_second"]["top_k"]
    print(f"top 6 against all 64: {speeds['6'] / speeds['64']:.2f} x the throughput, "
          f"{100 * speeds['64'] / speeds['6']:.0f}% of the latency")


if __name__ == "__main__":
    main()
