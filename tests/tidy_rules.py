"""The habits of CONTRIBUTING.md that a program can check. Each rule takes a path and a text and yields complaints."""
import re

# Rooms from the lowest to the highest: a file includes only its own room and rooms before it.
ROOMS = ["protos", "moe/base", "moe/metrics", "moe/tracing", "moe/tensor", "moe/checkpoint", "moe/tokenizer",
         "moe/grammar", "moe/kernels", "moe/placement", "moe/transport", "moe/model", "moe/daemon", "expert_service",
         "router_service", "placement_service", "gateway", "cli", "tests"]
# Services are peers: none includes another.
SERVICES = {"expert_service", "router_service", "placement_service", "gateway"}

LINES_MAX = {".h": 150, ".cc": 500, ".cu": 500, ".cuh": 300, ".inl": 300, ".py": 500, ".bzl": 150}
FUNCTION_LINES_MAX = 70
LINE_CHARACTERS_MAX = 120
# Headers of one implementation, which nobody else includes: what they are stands at their top, names say the rest.
INTERNAL_HEADERS = ("moe/kernels/cpu/", "moe/kernels/kernels_testing.h")
LEFTOVERS = re.compile(r"\b(FIXME|TODO|XXX|HACK)\b")


def room_of(path):
    for room in sorted(ROOMS, key=len, reverse=True):
        if path.startswith(room + "/"):
            return room
    return None


def include_arrows(path, text):
    room = room_of(path)
    if room is None:
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#include "([^"]+)"', line)
        target = room_of(match.group(1)) if match else None
        if target is None or target == room:
            continue
        if ROOMS.index(target) > ROOMS.index(room):
            yield f"{path}:{number}: {room} includes {match.group(1)}, which belongs to a later room"
        elif room in SERVICES and target in SERVICES:
            yield f"{path}:{number}: one service includes another: {match.group(1)}"


def file_size(path, text):
    suffix = path[path.rfind("."):]
    lines = text.count("\n")
    if lines > LINES_MAX.get(suffix, 10**9):
        yield f"{path}: {lines} lines, at most {LINES_MAX[suffix]}: split it by idea"


def line_length(path, text):
    """Of everything that people read as code, but for what is data: seeds of fuzzing, and generated rules."""
    if path == "tools/fuzz_corpus.sh" or path.endswith("/rules.yaml"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LINE_CHARACTERS_MAX:
            yield f"{path}:{number}: {len(line)} characters, at most {LINE_CHARACTERS_MAX}"


def function_size(path, text):
    """A function body, in a formatted file, starts on a line that ends in '{' and ends at a '}' of equal indent."""
    if not path.endswith((".cc", ".h", ".cu", ".cuh", ".inl")):
        return
    lines = text.splitlines()
    for start, line in enumerate(lines):
        opening = re.match(r"^(\s*)\S.*\)[^;=]*\{$", line)
        if not opening or re.match(r"\s*(if|for|while|switch|else|do|namespace|class|struct|extern)\b", line):
            continue
        if line.lstrip().startswith(("}", "//")):
            continue
        for end in range(start + 1, len(lines)):
            if re.match(rf"^ {{0,{len(opening.group(1))}}}\}}", lines[end]):  # a constructor's list is indented deeper
                if end - start + 1 > FUNCTION_LINES_MAX:
                    yield f"{path}:{start + 1}: a function of {end - start + 1} lines, at most {FUNCTION_LINES_MAX}"
                break


def leftovers(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        if LEFTOVERS.search(line):
            yield f"{path}:{number}: leftover: {line.strip()}"


def include_guard(path, text):
    if path.endswith(".h"):
        guard = "CONCLAVE_" + re.sub(r"[/.]", "_", path).upper() + "_"
        if f"#ifndef {guard}\n#define {guard}\n" not in text:
            yield f"{path}: the include guard should be {guard}"


def header_documentation(path, text):
    """A header says what it is; every class, struct, enum and free function in it has a comment above it."""
    if not path.endswith(".h"):
        return
    if not text.startswith("// "):
        yield f"{path}: the first line should be a comment that says what this is"
    if path.startswith(INTERNAL_HEADERS):
        return
    lines = text.splitlines()
    first = True  # the header's own comment speaks for what it declares first
    for number, line in enumerate(lines):
        declaration = re.match(r"(?:template.*|(?:class|struct|enum class|union) (?:\w+ )?\w+.*\{.*"
                               r"|(?!using|namespace|extern|return|static_assert|typedef)"
                               r"[A-Za-z_][\w:<>,*& ]* [*&]*\w+\(.*)$", line)
        if not declaration:
            continue
        if first:
            first = False
            continue
        above = lines[number - 1].strip() if number else ""
        above = above if above.startswith("//") else above.split("//")[0].strip()
        documented = above.startswith("//") or "//" in line or above.startswith("template")
        follows = above.endswith(";") or above.endswith("}")  # an overload or sibling under the same comment
        if not documented and not (follows and _same_paragraph_has_comment(lines, number)):
            yield f"{path}:{number + 1}: no comment above: {line.strip()}"


def _same_paragraph_has_comment(lines, number):
    while number > 0 and lines[number - 1].strip():
        number -= 1
        if "//" in lines[number]:
            return True
    return False


def forbidden_words(path, text):
    if path.endswith((".cc", ".h", ".cu")):
        code = "\n".join(line.split("//")[0] for line in text.splitlines())
        code = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', code)
        if re.search(r"\bthrow\b", code) and not re.search(r"\bcatch\b", code):  # inside a library's callback it may
            yield f"{path}: exceptions do not cross our functions: return absl::Status"
        may_ask = path.endswith(("main.cc", "_test.cc")) or path == "moe/daemon/flags.cc"
        if re.search(r"\bgetenv\b", code) and not may_ask:
            yield f"{path}: getenv below main: pass the value in"
        if path.endswith(".h") and re.search(r"^\s*using namespace", code, re.M):
            yield f"{path}: using namespace in a header"
    if path.endswith((".bazelrc", "BUILD", ".bzl")) and "-ffast-math" in text:
        yield f"{path}: -ffast-math breaks the same bits"


def files_of_tests(path, text):
    """Two runs of a test at a time, or one after the other, do not meet in a folder that both use."""
    if path.endswith((".cc", ".h", ".cu")) and path != "moe/base/test_folder.cc" and \
            re.search(r'\bTempDir\(\)|"TEST_TMPDIR"', text):
        yield f"{path}: tests put their files below TestFolder() (moe/base/test_folder.h)"


def anchors(markdown):
    """What links may put behind a # to reach a heading of this document."""
    without_code = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} (.*)", without_code, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def proto_habits(path, text):
    if not path.endswith(".proto"):
        return
    for name, first in re.findall(r"enum (\w+) \{\s*(?://[^\n]*\s*)*(\w+) = 0;", text):
        if not first.endswith("_UNSPECIFIED"):
            yield f"{path}: enum {name}: value zero should end in _UNSPECIFIED"
    if re.search(r"repeated (float|double) ", text):
        yield f"{path}: tensors are bytes + dtype + shape, never repeated float"


RULES = [include_arrows, file_size, line_length, function_size, leftovers, include_guard, header_documentation,
         forbidden_words, files_of_tests, proto_habits]
