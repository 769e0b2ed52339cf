#!/usr/bin/env python3
"""Prints text that the demo model was not trained on, to measure perplexity with.

    python3 tools/held_out_text.py [--domain NAME] [--characters N] > FILE

The text comes from the generators of the training data (tools/demo-model-training) with the seeds of its held-out
part: documents of all domains in turn, or of one. Equal arguments give equal bytes.
"""
import argparse
import itertools
import os
import random
import sys
import types

# corpus.py makes token streams too, and imports numpy for these alone.
sys.modules.setdefault("numpy", types.ModuleType("numpy"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo-model-training"))
import corpus  # noqa: E402

SEED = "held"


def documents(domain):
    generator = random.Random(f"{domain}-{SEED}")
    while True:
        yield corpus.document(generator, domain)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--domain", choices=list(corpus.SIZES), help="one domain; all in turn without it")
    parser.add_argument("--characters", type=int, default=200_000, help="stop after so many (default 200000)")
    arguments = parser.parse_args()
    domains = [arguments.domain] if arguments.domain else list(corpus.SIZES)
    written = 0
    for document in itertools.chain.from_iterable(zip(*map(documents, domains))):
        sys.stdout.write(document)
        written += len(document)
        if written >= arguments.characters:
            return


if __name__ == "__main__":
    main()
