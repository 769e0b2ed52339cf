"""Writes a kustomize component that fits k8s/base to a checkpoint: shards, memory, the volume, and startup budgets.

    conclave inspect MODEL --shards 16 -o json |
        python3 tools/kubernetes/sizes.py --read-mb-s 800 > my/sizes/kustomization.yaml

--read-mb-s is what one pod reads from the model's volume when all start at once: measure it. A process may take twice
the time that its bytes need at that rate, and half a minute besides, before the kubelet gives it up.
"""
import argparse
import json
import math
import sys

GIB = 1 << 30
PROBE_SECONDS = 5  # periodSeconds of the startup probes in k8s/base
WORK_BYTES = GIB   # what a process needs beside weights and cache
SLACK = 1.1        # the volume's and the memory's, for what files hold beside tensors


def gib(size):
    return f"{max(1, math.ceil(size / GIB))}Gi"


def startup_threshold(size, read_mb_s):
    return math.ceil((2 * size / (read_mb_s * 1e6) + 30) / PROBE_SECONDS)


def patch(kind, name, operations):
    lines = ["  - target:", f"      kind: {kind}", f"      name: {name}", "    patch: |-"]
    for path, value in operations:
        lines += [f"      - op: {'add' if path.endswith('-') else 'replace'}", f"        path: {path}",
                  f"        value: {json.dumps(value)}"]
    return lines


def container(size, memory, read_mb_s):
    base = "/spec/template/spec/containers/0"
    return [(f"{base}/resources/requests/memory", gib(memory)), (f"{base}/resources/limits/memory", gib(memory)),
            (f"{base}/startupProbe/failureThreshold", startup_threshold(size, read_mb_s))]


def component(model, read_mb_s, copies, kv_gib):
    """The text of kustomization.yaml. `model`: what `conclave inspect -o json` printed."""
    shards = len(model["shards"])
    if not 1 <= copies <= shards:
        raise SystemExit(f"sizes: --copies: {copies} is not in [1, {shards}], the shards that were inspected")
    shard_bytes = copies * max(shard["expert_bytes"] for shard in model["shards"])
    router_bytes = model["bytes_total"] - model["expert_bytes"] - model.get("mtp_bytes", 0)
    size = f"{model['bytes_total'] / 1e9:.1f} GB"
    lines = [f"# {model['directory']}: {size} over {shards} shards, {copies} of each expert;",
             f"# read at {read_mb_s} MB/s a pod. Written by tools/kubernetes/sizes.py.",
             "apiVersion: kustomize.config.k8s.io/v1alpha1", "kind: Component", "patches:"]
    lines += patch("PersistentVolumeClaim", "conclave-model",
                   [("/spec/resources/requests/storage", gib(SLACK * model["bytes_total"]))])
    lines += patch("ConfigMap", "conclave-topology", [("/data/CONCLAVE_SHARD_COUNT", str(shards))])
    lines += patch("StatefulSet", "conclave-expert",
                   [("/spec/replicas", shards), *container(shard_bytes, SLACK * shard_bytes + WORK_BYTES, read_mb_s),
                    ("/spec/template/spec/containers/0/args/-", f"--replicas={copies}")])
    lines += patch("StatefulSet", "conclave-router",
                   [*container(router_bytes, SLACK * router_bytes + kv_gib * GIB + WORK_BYTES, read_mb_s),
                    ("/spec/template/spec/containers/0/args/-", f"--kv-memory={kv_gib}GiB")])
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read-mb-s", type=float, required=True, help="MB/s that one pod reads while all start")
    parser.add_argument("--copies", type=int, default=1, help="shards that hold each expert")
    parser.add_argument("--kv-gib", type=int, default=8, help="GiB of KV cache of an attention service")
    options = parser.parse_args()
    if options.read_mb_s <= 0 or options.kv_gib <= 0:
        parser.error("--read-mb-s and --kv-gib must be positive")
    sys.stdout.write(component(json.load(sys.stdin), options.read_mb_s, options.copies, options.kv_gib))


if __name__ == "__main__":
    main()
