"""Writes files as constants of a C++ header: embed.py OUT FILE…  (console.js becomes embedded::kConsoleJs)"""
import os
import sys

PIECE = 8000  # compilers limit the length of one literal


def name_of(path):
    return "k" + "".join(part.capitalize() for part in os.path.basename(path).replace("-", ".").split("."))


def literal(text):
    pieces = [text[i:i + PIECE] for i in range(0, len(text), PIECE)] or [""]
    return "\n".join(f'    R"embed({piece})embed"' for piece in pieces)


def main(out, paths):
    lines = ["// Written by gateway/console/embed.py.", "#pragma once", "", "namespace conclave::embedded {", ""]
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert ")embed" not in text, path
        lines += [f"inline constexpr char {name_of(path)}[] =", literal(text) + ";", ""]
    lines += ["}  // namespace conclave::embedded", ""]
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
