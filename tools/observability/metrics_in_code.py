"""The metrics that the sources declare: every AddCounter, AddGauge and AddHistogram with its literal name and help."""
import glob
import os
import re
from dataclasses import dataclass

ROOMS = ("moe", "router_service", "expert_service", "placement_service", "gateway")
DECLARATION = re.compile(r'Add(Counter|Gauge|Histogram)\(\s*"(conclave_\w+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')


@dataclass(frozen=True, order=True)
class Metric:
    name: str
    kind: str
    help: str

    def series(self):
        """The names of its time series."""
        return [self.name + end for end in ("_bucket", "_sum", "_count")] if self.kind == "histogram" else [self.name]


def find(root):
    """All of them, by name."""
    found = {}
    for room in ROOMS:
        for path in glob.glob(os.path.join(root, room, "**", "*.cc"), recursive=True):
            if path.endswith("_test.cc"):
                continue
            with open(path) as file:
                for kind, name, text in DECLARATION.findall(file.read()):
                    text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text))
                    found[name] = Metric(name, kind.lower(), text)
    return sorted(found.values())
