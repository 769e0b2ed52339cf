#!/usr/bin/env python3
"""Holds the grammars of JSON Schemas against Python's jsonschema (pip install jsonschema).

  bazel build -c opt //moe/grammar:grammar_oracle
  tools/grammar_oracle.py [--schemas 500] [--seed 1]

Random schemas; of each, random texts, which must be JSON and valid, and damaged ones, of which the grammar may accept
none that is not. With --golden FILE some of them are written there, as moe/grammar/testdata/schemas.json has them.
"""
import argparse
import json
import random
import subprocess
import sys

import jsonschema

BINARY = "bazel-bin/moe/grammar/grammar_oracle"
NAMES = ["a", "b", "ab", "long name", "ü", "x\"y", "n\\n", "日本"]
PATTERNS = ["^[a-z]{2,5}$", "ab+c?", "^(foo|bar)[0-9]*$", "^\\d{3}-\\d{4}$", "[^a-z]x", "^$|^y", "\\s\\w", "^[A-Z].*é$"]


class Oracle:
    def __init__(self):
        self.process = subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def scalar(rng):
    return rng.choice([None, True, False, 0, -3, 17, 2.5, "", "a", "b\"", "é\n", "日本"])


def number_schema(rng):
    schema = {"type": rng.choice(["integer", "number"])}
    bounds = sorted(rng.randint(-1200, 1200) // rng.choice([1, 10, 100, 1000]) for _ in range(2))
    if rng.random() < 0.5:
        schema[rng.choice(["minimum", "exclusiveMinimum"])] = bounds[0]
    if rng.random() < 0.5:
        schema[rng.choice(["maximum", "exclusiveMaximum"])] = bounds[1] + 2
    return schema


def string_schema(rng):
    schema = {"type": "string"}
    kind = rng.randrange(4)
    if kind == 1:
        schema["minLength"] = rng.randint(0, 3)
        schema["maxLength"] = schema["minLength"] + rng.randint(0, 5)
    if kind == 2:
        schema["pattern"] = rng.choice(PATTERNS)
    if kind == 3:
        schema["format"] = rng.choice(["date", "time", "date-time", "uuid", "ipv4", "email"])
    return schema


def array_schema(rng, depth):
    schema = {"type": "array"}
    if rng.random() < 0.7:
        schema["items"] = any_schema(rng, depth - 1)
    if rng.random() < 0.3:
        schema["prefixItems"] = [any_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        schema["minItems"] = rng.randint(0, 3)
    if rng.random() < 0.5:
        schema["maxItems"] = schema.get("minItems", 0) + rng.randint(0, 3)
    if rng.random() < 0.1:
        schema["items"] = False
    return schema


def object_schema(rng, depth):
    schema = {"type": "object"}
    names = rng.sample(NAMES, rng.randint(0, 4))
    if names or rng.random() < 0.5:
        schema["properties"] = {name: any_schema(rng, depth - 1) for name in names}
        schema["required"] = [name for name in names if rng.random() < 0.5]
    if rng.random() < 0.5:
        schema["additionalProperties"] = rng.choice([True, False, any_schema(rng, depth - 1)])
    return schema


def any_schema(rng, depth):
    kinds = ["number", "string", "words", "constant", "types"]
    if depth > 0:
        kinds += ["array", "object", "object", "union", "reference"]
    kind = rng.choice(kinds)
    if kind == "number":
        return number_schema(rng)
    if kind == "string":
        return string_schema(rng)
    if kind == "words":
        return rng.choice([{"type": "boolean"}, {"type": "null"}, {}, True])
    if kind == "constant":
        return rng.choice([{"const": scalar(rng)}, {"enum": [scalar(rng) for _ in range(rng.randint(1, 5))]},
                           {"const": {"b": [1, {"a": None}]}}])
    if kind == "types":
        return {"type": rng.sample(["integer", "string", "null", "boolean", "array"], 2), "maxLength": 4, "maxItems": 2}
    if kind == "array":
        return array_schema(rng, depth)
    if kind == "object":
        return object_schema(rng, depth)
    if kind == "union":
        return {"anyOf": [any_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))], "title": "one of them"}
    return {"$ref": rng.choice(["#/$defs/tree", "#/$defs/list", "#"])}


def root_schema(rng):
    schema = any_schema(rng, 3)
    if not isinstance(schema, dict) or "$ref" in schema:
        schema = {"anyOf": [schema, {"type": "null"}]}
    if "$ref" not in json.dumps(schema):
        return schema
    schema["$defs"] = {
        "tree": {"type": "object", "properties": {"value": {"type": "integer"},
                                                  "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                 "required": ["value"], "additionalProperties": False},
        "list": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}},
                                              "required": ["next"]}]}}
    return schema


def refuse_constant(name):
    raise ValueError(name)


def is_valid(validator, text):
    try:
        value = json.loads(text, parse_constant=refuse_constant)
        text.encode("utf-8")
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, UnicodeError):
        return False
    try:
        return validator.is_valid(value)
    except RecursionError:  # of jsonschema, where a schema refers to itself without a step into the instance
        return True


def damaged(rng, text):
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + 1:]
        elif kind == 1:
            text = text[:at] + rng.choice("{}[]\",:0123456789.-eE \n\\utrfnabé日x") + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice("{}[]\",:0123456789.-eE \n\\utrfnabé日x") + text[at + 1:]
        else:
            end = rng.randrange(at, len(text) + 1)
            text = text[:at] + text[end:]
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    oracle = Oracle()
    golden = []
    counts = {"schemas": 0, "refused": 0, "samples": 0, "damaged": 0, "damaged and accepted": 0}
    while counts["schemas"] < args.schemas:
        schema = root_schema(rng)
        answer = oracle.ask(schema=json.dumps(schema, ensure_ascii=rng.random() < 0.5))
        counts["schemas"] += 1
        if "error" in answer:
            counts["refused"] += 1
            if "no answer can satisfy" not in answer["error"] and "none of the values" not in answer["error"]:
                sys.exit(f"refused: {answer['error']}\n{json.dumps(schema)}")
            continue
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        entry = {"schema": json.dumps(schema, ensure_ascii=False), "valid": [], "invalid": []}
        golden.append(entry)
        for text in oracle.ask(samples=20, seed=rng.getrandbits(32)):
            counts["samples"] += 1
            if not is_valid(validator, text):
                sys.exit(f"not valid: {text!r}\n{json.dumps(schema)}")
            if not oracle.ask(accepts=text):
                sys.exit(f"its own text is not accepted: {text!r}\n{json.dumps(schema)}")
            other = damaged(rng, text)
            if len(text) < 120 and text not in entry["valid"]:
                entry["valid"].append(text)
            if len(other) < 120 and not is_valid(validator, other):
                entry["invalid"].append(other)
            counts["damaged"] += 1
            if oracle.ask(accepts=other):
                counts["damaged and accepted"] += 1
                if not is_valid(validator, other):
                    sys.exit(f"accepted: {other!r}\n{json.dumps(schema)}")
    print(counts)
    if args.golden:
        with open(args.golden, "w", encoding="utf-8") as file:
            lines = [json.dumps({"schema": entry["schema"], "valid": entry["valid"][:4],
                                 "invalid": entry["invalid"][:4]}, ensure_ascii=False) for entry in golden]
            file.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
