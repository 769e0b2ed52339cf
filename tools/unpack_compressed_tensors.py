#!/usr/bin/env python3
"""Turns a packed model into float32 by the compressed-tensors package, to compare what Conclave reads with it.

usage: unpack_compressed_tensors.py PACKED_DIR OUT_DIR

Needs the packages compressed-tensors, safetensors and torch. `conclave logits --compute f32` of both directories must
agree to rounding, for float32 holds every code times its scale exactly enough.
"""
import json
import os
import shutil
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file


def unpacked(tensors, weights):
    result = {}
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        if part == "weight_packed":
            codes = unpack_from_int32(tensor, weights.num_bits, torch.Size(tensors[f"{base}.weight_shape"].tolist()))
            scales = tensors[f"{base}.weight_scale"].float()
            values = dequantize(codes.float(), scales, None, weights, dtype=torch.float32)
            result[f"{base}.weight"] = values.contiguous()
        elif part not in ("weight_scale", "weight_shape"):
            result[name] = tensor
    return result


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    quantization = QuantizationConfig.model_validate(config.pop("quantization_config"))
    weights = quantization.config_groups["group_0"].weights
    tensors = {}
    for name in sorted(os.listdir(source)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(source, name)))
    os.makedirs(target)
    for name in os.listdir(source):
        if not name.endswith((".safetensors", ".index.json")) and name != "config.json":
            shutil.copy(os.path.join(source, name), target)
    with open(os.path.join(target, "config.json"), "w") as file:
        json.dump(config, file)
    save_file(unpacked(tensors, weights), os.path.join(target, "model.safetensors"), metadata={"format": "pt"})
    print(f"{quantization.format}, {weights.num_bits} bits, strategy {weights.strategy}: wrote {target}")


if __name__ == "__main__":
    main()
