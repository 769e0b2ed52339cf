#!/usr/bin/env bash
# Writes seeds for one fuzz target:  tools/fuzz_corpus.sh TARGET FOLDER
# Seeds are real files, whole and cut short, so that the fuzzer starts behind the first check.
set -euo pipefail
target=$1 folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
demo=$root/models/demo

case "$target" in
  safetensors_fuzz)
    python3 - "$demo/model.safetensors" "$folder" <<'PY'
import struct, sys
with open(sys.argv[1], "rb") as file:
    size = struct.unpack("<Q", file.read(8))[0]
    header = file.read(size)
small = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}'
for name, text in (("header", header), ("cut", header[:997]), ("small", small)):
    open(f"{sys.argv[2]}/{name}", "wb").write(text)
    open(f"{sys.argv[2]}/{name}-file", "wb").write(struct.pack("<Q", len(text)) + text + b"\0" * 22)
PY
    ;;
  model_config_fuzz)
    cp "$demo/config.json" "$folder/demo"
    cp "$root"/moe/checkpoint/fuzz_seeds/model_config/* "$folder/"
    for config in "$root"/../shared/reference/*/config.json; do
      [ -f "$config" ] && cp "$config" "$folder/$(basename "$(dirname "$config")")"
    done
    ;;
  tokenizer_fuzz)
    for file in "$root"/moe/tokenizer/testdata/*.json; do [ -f "$file" ] && cp "$file" "$folder/"; done
    head -c 4000 "$demo/tokenizer.json" >"$folder/cut"
    ;;
  grammar_fuzz)
    python3 - "$root/moe/grammar/testdata/schemas.json" "$folder" <<'PY'
import json, sys
for number, case in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))):
    open(f"{sys.argv[2]}/schema-{number}", "w", encoding="utf-8").write(case["schema"])
for number, pattern in enumerate(["^(a|b{2,3})+[^c-e\\d]?$", "\\u00e9.*x|\\s\\W", "(?:[a-z]{0,40}-)*"]):
    open(f"{sys.argv[2]}/pattern-{number}", "w", encoding="utf-8").write("/" + pattern)
PY
    ;;
  activation_fuzz)
    # call_id 1, epoch 1, layer 1, rows {F32, [1, 4], 16 bytes}, experts_per_row [1], experts [0].
    printf '\x08\x01\x10\x01\x18\x01\x22\x18\x08\x01\x12\x02\x01\x04\x1a\x10AAAABBBBCCCCDDDD\x2a\x01\x01\x32\x01\x00' >"$folder/one-row"
    ;;
  wire_fuzz)
    # A call of one row [1, 4] of F32 for expert 0, whole, and in two fragments.
    python3 - "$folder" <<'PY'
import struct, sys
body = struct.pack("<2Ii", 0, 1, 0) + b"\0" * 52 + b"AAAABBBBCCCCDDDD"
def fragment(offset, part):
    header = struct.pack("<I4B9QiiIIII", 0x43565831, 1, 3, 0, 0, 1, 2, 1, 5, offset, len(body), 1, 0, 0, 0, 0, 1, 1, 4, 0)
    return struct.pack("<H", len(part)) + header + part
open(f"{sys.argv[1]}/whole", "wb").write(fragment(0, body))
open(f"{sys.argv[1]}/halves", "wb").write(fragment(0, body[:30]) + fragment(30, body[30:]))
PY
    ;;
  api_request_fuzz)
    printf '%s' '{"model": "demo", "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}], "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["x"], "logit_bias": {"3": -1}, "logprobs": true, "top_logprobs": 2, "stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": 4, "seed": -1}' >"$folder/chat"
    printf '%s' '{"prompt": [[1, 2], "a\u0000\ud83d\ude42"], "echo": true, "logprobs": 1, "max_tokens": 3, "stop_token_ids": [1], "ignore_eos": true, "min_p": 1e-1, "best_of": 1, "suffix": "", "response_format": {"type": "text"}}' >"$folder/completion"
    printf '%s' '{"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "a", "content": "b"}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1.5, "a": "]\"}"}}} ], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false}' >"$folder/functions"
    printf '%s' '{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "object", "properties": {"b": {"enum": [1, "x"]}}}}}}' >"$folder/format"
    printf '%s' '{"tokens": [1, 2, 3], "model": null}' >"$folder/detokenize"
    ;;
  *) echo "fuzz_corpus: unknown target '$target'" >&2; exit 2 ;;
esac
