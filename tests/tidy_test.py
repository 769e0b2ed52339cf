#!/usr/bin/env python3
"""Holds the habits of CONTRIBUTING.md: tests/tidy_test.py ROOT. First shows that every rule can fail."""
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import tidy_rules  # noqa: E402

ROOT = sys.argv.pop(1) if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SKIPPED_FOLDERS = {".git", "models", "build", "dist", "testdata", "data"}
SKIPPED_FILES = "tools/demo-model-training/synth_"  # sentences to train on
SUFFIXES = (".h", ".cc", ".cu", ".cuh", ".inl", ".py", ".bzl", ".proto", ".sh", ".yaml", ".yml", ".js", ".css", ".html",
            ".bazelrc", "BUILD", "WORKSPACE", "Dockerfile")
COMMANDS = {"demo", "test", ".ci/run", "deploy/sagemaker/serve"}

BROKEN = {
    "include_arrows": ("moe/tensor/a.cc", '#include "moe/model/gate.h"\n'),
    "file_size": ("moe/base/a.h", "//\n" * 151),
    "line_length": ("demo", "echo " + "a" * 120 + "\n"),
    "function_size": ("moe/base/a.cc", "void F() {\n" + "  G();\n" * 70 + "}\n"),
    "leftovers": ("moe/base/a.cc", "// TO" + "DO: later\n"),
    "include_guard": ("moe/base/a.h", "#ifndef A_H\n#define A_H\n"),
    "header_documentation": ("moe/base/a.h", "// A.\n\nclass A {\n};\n\nclass Undocumented {\n"),
    "forbidden_words": ("moe/base/a.cc", "void F() { throw 1; }\n"),
    "files_of_tests": ("moe/base/a_test.cc", "const std::string path = testing::TempDir() + \"/a\";\n"),
    "proto_habits": ("protos/a.proto", "enum E {\n  E_ONE = 0;\n}\n"),
}


def sources():
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith("bazel-")]
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), ROOT)
            if (name.endswith(SUFFIXES) or path in COMMANDS) and not path.startswith(SKIPPED_FILES):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    yield path, file.read()


class TidyTest(unittest.TestCase):
    def test_every_rule_can_fail(self):
        for rule in tidy_rules.RULES:
            path, text = BROKEN[rule.__name__]
            self.assertTrue(list(rule(path, text)), f"{rule.__name__} accepts {text!r}")

    def test_a_long_line_of_any_kind_of_file_is_found(self):
        line = "a" * (tidy_rules.LINE_CHARACTERS_MAX + 1)
        looked_at = [path for path, _ in sources() if list(tidy_rules.line_length(path, line))]
        for kind in SUFFIXES:
            self.assertTrue([path for path in looked_at if path.endswith(kind)], f"no line of {kind} is looked at")
        self.assertLessEqual({"demo", "test"}, set(looked_at))

    def test_sources_are_tidy(self):
        complaints = []
        files = list(sources())
        self.assertGreater(len(files), 50, f"found no sources below {ROOT}")
        for path, text in files:
            own = path in ("tests/tidy_rules.py", "tests/tidy_test.py")
            for rule in tidy_rules.RULES:
                if not (own and rule in (tidy_rules.leftovers, tidy_rules.forbidden_words)):
                    complaints += rule(path, text)
        self.assertEqual(complaints, [], "\n" + "\n".join(complaints))

    def test_every_source_is_in_a_build_file(self):
        orphans = []
        for path, _ in sources():
            if path.endswith((".cc", ".h", ".cu", ".inl")):
                folder = os.path.dirname(path)
                while folder and not os.path.exists(os.path.join(ROOT, folder, "BUILD")):
                    folder = os.path.dirname(folder)
                with open(os.path.join(ROOT, folder, "BUILD"), encoding="utf-8") as file:
                    build = file.read()
                relative = os.path.relpath(path, folder)
                if f'"{relative}"' not in build and "glob(" not in build:
                    orphans.append(path)
        self.assertEqual(orphans, [])

    def test_links_of_documents_lead_to_files_and_headings_that_exist(self):
        documents = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        documents += [f"docs/{name}" for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md")]
        broken = []
        for document in documents:
            with open(os.path.join(ROOT, document), encoding="utf-8") as file:
                broken += [f"{document}: {link}" for link in broken_links(document, file.read())]
        self.assertEqual(broken, [])

    def test_a_link_that_leads_nowhere_is_found(self):
        for link in ("no-such-file.md", "gpu.md#no-such-heading", "#no-such-heading"):
            self.assertEqual(list(broken_links("docs/a.md", f"# A\n\n[a]({link}), [b](#a), [c](gpu.md#nccl)")), [link])


def broken_links(document, text):
    """The links of a document that lead to no file of the checkout, or to no heading of a document."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = link.partition("#")
        target = os.path.normpath(os.path.join(ROOT, os.path.dirname(document), path))
        if path and not os.path.exists(target):
            yield link
        elif heading and (not path or path.endswith(".md")):
            if path:
                with open(target, encoding="utf-8") as file:
                    known = tidy_rules.anchors(file.read())
            else:
                known = tidy_rules.anchors(text)
            if heading not in known:
                yield link


if __name__ == "__main__":
    unittest.main(verbosity=1)
