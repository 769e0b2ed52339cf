"""`conclave quantize` and `conclave perplexity`, against the same arithmetic written down in Python."""
import json
import math
import os
import resource
import signal
import struct
import subprocess
import tempfile
import unittest

from conclave_test_lib import (CONCLAVE, DEMO_MODEL, clean_environment, eventually, generate, read_header, read_tensor,
                               read_tensor_bytes, run, write_tensors)

TEXT = "The shard that holds an expert is asked for it. " * 3


def bfloat16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.unpack("<f", struct.pack("<I", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16))[0]


def halves(path, name):
    data = read_tensor_bytes(path, name)
    halves = struct.unpack(f"<{len(data) // 2}H", data)
    return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]


def unpack(path, base, bits, columns):
    """The integers of a packed matrix, row after row."""
    words = read_tensor(path, base + ".weight_packed")
    per_word = 32 // bits
    return [((word & 0xFFFFFFFF) >> bits * (k % per_word) & (1 << bits) - 1) - (1 << bits - 1)
            for word in words for k in range(per_word)]


def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0 ** -9
    return -magnitude if code & 128 else magnitude


def blocks(path, name, rows, columns):
    """The values of an FP8 matrix with a scale for 128 x 128 codes, row after row."""
    scales = read_tensor(path, name + "_scale_inv")
    wide = (columns + 127) // 128
    return [e4m3(code) * scales[i // columns // 128 * wide + i % columns // 128]
            for i, code in enumerate(read_tensor_bytes(path, name))]


class QuantizeTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.source = os.path.join(self.folder.name, "source")
        made = run("make-model", "--preset", "tiny", "--dtype", "bf16", "--seed", 3, "--out", self.source)
        self.assertEqual(made.returncode, 0, made.stderr)
        self.weights = os.path.join(self.source, "model.safetensors")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def quantize(self, to, *flags):
        out = self.path(to)
        result = run("quantize", "--model", self.source, "--to", to, "--out", out, *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        return os.path.join(out, "model.safetensors")

    def logits(self, model, out):
        result = run("logits", "--model", model, "--ids", "256,72,105,33,10,97", "--compute", "f32", "--out", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        return read_tensor(out, "logits")

    def test_int8_is_the_rounded_source(self):
        packed = self.quantize("int8")
        base = "model.layers.1.mlp.experts.2.down_proj"
        rows, columns = read_tensor(packed, base + ".weight_shape")
        values, codes = halves(self.weights, base + ".weight"), unpack(packed, base, 8, columns)
        scales = halves(packed, base + ".weight_scale")
        self.assertEqual((len(values), len(scales)), (rows * columns, rows))
        for row in range(rows):
            part = values[row * columns:(row + 1) * columns]
            self.assertEqual(scales[row], bfloat16(max(map(abs, part)) / 127))
            self.assertEqual(codes[row * columns:(row + 1) * columns],
                             [max(-128, min(127, round(value / scales[row]))) for value in part])

    def test_int4_has_a_scale_for_32_values(self):
        packed = self.quantize("int4")
        base = "model.layers.2.mlp.shared_experts.gate_proj"
        rows, columns = read_tensor(packed, base + ".weight_shape")
        values, codes = halves(self.weights, base + ".weight"), unpack(packed, base, 4, columns)
        scales = halves(packed, base + ".weight_scale")
        self.assertEqual(len(scales), rows * columns // 32)
        self.assertEqual(codes, [max(-8, min(7, round(value / scales[i // 32]))) for i, value in enumerate(values)])
        error = sum((v - c * scales[i // 32]) ** 2 for i, (v, c) in enumerate(zip(values, codes)))
        self.assertLess(error, 0.01 * sum(v * v for v in values))

    def test_the_configuration_names_the_format_and_what_was_left_out(self):
        self.quantize("int4")
        with open(self.path("int4/config.json")) as file:
            config = json.load(file)
        quantization = config["quantization_config"]
        self.assertEqual(quantization["format"], "pack-quantized")
        self.assertIn("lm_head", quantization["ignore"])
        weights = quantization["config_groups"]["group_0"]["weights"]
        self.assertEqual((weights["num_bits"], weights["group_size"], weights["symmetric"]), (4, 32, True))
        with open(os.path.join(self.source, "config.json")) as file:
            self.assertEqual({**json.load(file), "quantization_config": quantization}, config)
        self.assertIn("I32", json.loads(run("inspect", self.path("int4"), "-o", "json").stdout)["bytes_by_dtype"])

    # What the engine computes with packed weights is what it computes with the same values spelled out.
    def test_packed_weights_compute_like_their_values(self):
        for to, bits, flags in (("int8", 8, ["--head"]), ("int4", 4, []), ("fp8", 8, ["--head"])):
            packed = self.quantize(to, *flags)
            head = "lm_head.weight_scale_inv" if to == "fp8" else "lm_head.weight_packed"
            self.assertEqual(head in read_header(packed)[0], bool(flags))
            plain = self.path(to + "-plain")
            os.mkdir(plain)
            with open(os.path.join(self.source, "config.json")) as file:
                text = file.read()
            with open(os.path.join(plain, "config.json"), "w") as file:
                file.write(text)
            tensors = {}
            for name, entry in read_header(packed)[0].items():
                if name.endswith(("_scale", "_shape", "_scale_inv")):
                    continue
                if entry["dtype"] == "F8_E4M3":
                    values = blocks(packed, name, *entry["shape"])
                    tensors[name] = ("F32", entry["shape"], struct.pack(f"<{len(values)}f", *values))
                    continue
                if not name.endswith("_packed"):
                    tensors[name] = (entry["dtype"], entry["shape"], read_tensor_bytes(packed, name))
                    continue
                base = name[:-len(".weight_packed")]
                rows, columns = read_tensor(packed, base + ".weight_shape")
                scales = halves(packed, base + ".weight_scale")
                group = rows * columns // len(scales)
                values = [code * scales[i // group] for i, code in enumerate(unpack(packed, base, bits, columns))]
                tensors[base + ".weight"] = ("F32", [rows, columns], struct.pack(f"<{len(values)}f", *values))
            write_tensors(os.path.join(plain, "model.safetensors"), tensors)
            have = self.logits(self.path(to), self.path("have.safetensors"))
            want = self.logits(plain, self.path("want.safetensors"))
            largest = max(map(abs, want))
            self.assertLess(max(abs(a - b) for a, b in zip(have, want)), 1e-4 * largest, to)

    def test_a_full_disk_leaves_nothing(self):
        before = sorted(os.listdir(self.folder.name))
        # A limit on the size of files stands for a disk that is full after 60 KB.
        command = [CONCLAVE, "quantize", "--model", self.source, "--to", "int8", "--out", self.path("out")]
        result = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=300,
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("File too large", result.stderr)
        self.assertEqual(sorted(os.listdir(self.folder.name)), before)

    def test_ctrl_c_leaves_nothing(self):
        out = self.path("out")
        process = subprocess.Popen([CONCLAVE, "quantize", "--model", DEMO_MODEL, "--to", "int4", "--out", out,
                                    "--threads", "1"], stderr=subprocess.PIPE, env=clean_environment(), text=True)
        started = eventually(lambda: any(".partial." in name for name in os.listdir(self.folder.name)))
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=120)[1]
        self.assertTrue(started)
        self.assertEqual(process.returncode, 1, error)
        self.assertIn("interrupted", error)
        self.assertEqual(os.listdir(self.folder.name), ["source"])

    def test_bad_input_is_named(self):
        out = self.path("out")
        for arguments, words, code in [
                (["--model", self.source, "--to", "int3", "--out", out], "int8", 2),
                (["--model", self.source, "--out", out], "--to is missing", 2),
                (["--model", self.source, "--to", "int8", "--out", self.source], "exists already", 1),
                (["--model", self.path("none"), "--to", "int8", "--out", out], "none", 1)]:
            result = run("quantize", *arguments)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertIn(words, result.stderr)

    def perplexity(self, *arguments):
        result = run("perplexity", "-o", "json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    # One window holds the whole text: its nats are those of the logits.
    def test_perplexity_is_that_of_the_logits(self):
        text = self.path("text")
        with open(text, "w") as file:
            file.write(TEXT)
        ids = generate("--model", self.source, "--prompt", TEXT, "--max-tokens", 1)["prompt_ids"]
        result = run("logits", "--model", self.source, "--ids", ",".join(map(str, ids)), "--compute", "f32", "--out",
                     self.path("logits"))
        self.assertEqual(result.returncode, 0, result.stderr)
        logits = read_tensor(self.path("logits"), "logits")
        vocab = len(logits) // len(ids)
        nats = 0
        for position in range(1, len(ids)):
            row = logits[(position - 1) * vocab:position * vocab]
            largest = max(row)
            nats += largest + math.log(sum(math.exp(value - largest) for value in row)) - row[ids[position]]
        report = self.perplexity("--model", self.source, "--compute", "f32", "--text", text)
        self.assertEqual(report["tokens"], len(ids) - 1)
        self.assertAlmostEqual(report["nats_per_token"], nats / (len(ids) - 1), places=4)
        self.assertAlmostEqual(report["perplexity"], math.exp(report["nats_per_token"]), places=3)
        shorter = self.perplexity("--model", self.source, "--compute", "f32", "--text", text, "--window", 40)
        self.assertEqual((shorter["tokens"], shorter["stride"]), (report["tokens"], 20))
        self.assertEqual(run("perplexity", "--model", self.source, "--text", text, "--window", 8, "--stride",
                             9).returncode, 2)


if __name__ == "__main__":
    unittest.main()
