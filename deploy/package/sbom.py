"""A software bill of materials (CycloneDX 1.5, JSON) of a staged folder: which Debian packages its libraries are from.

    python3 deploy/package/sbom.py FOLDER > sbom.json

Debian's standard library alone. The packages' own versions name their security fixes (tracker.debian.org).
"""
import hashlib
import json
import os
import subprocess
import sys

ARCHITECTURE = "amd64"
PACKAGE_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu")


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def package_of(library):
    """The Debian package that a library of this name is from; None where none is."""
    for folder in PACKAGE_FOLDERS:
        owners = output_of("dpkg-query", "-S", os.path.join(folder, library))
        if not owners:
            owners = output_of("dpkg-query", "-S", os.path.realpath(os.path.join(folder, library)))
        if owners:
            return owners.split(":", 1)[0]
    return None


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def debian_component(package):
    # A machine may have the package for other architectures too.
    lines = output_of("dpkg-query", "-W", "-f=${Version}\t${Architecture}\t${source:Package}\n", package).splitlines()
    fields = [line.split("\t") for line in lines]
    version, architecture, source = next(f for f in fields if f[1] in (ARCHITECTURE, "all"))
    return {"type": "library", "bom-ref": f"deb:{package}", "name": package, "version": version,
            "purl": f"pkg:deb/debian/{package}@{version}?arch={architecture}&distro=debian-12",
            "properties": [{"name": "debian:source", "value": source}]}


def bill_of(folder):
    packages, unknown = set(), []
    for name in sorted(os.listdir(os.path.join(folder, "lib"))):
        if not os.path.isfile(os.path.join(folder, "lib", name)):
            continue
        package = package_of(name)
        packages.add(package) if package else unknown.append(name)
    if unknown:
        sys.exit(f"sbom: no Debian package owns {', '.join(unknown)}")
    binaries = [{"type": "application", "bom-ref": f"conclave:{name}", "name": name,
                 "hashes": [{"alg": "SHA-256", "content": digest_of(os.path.join(folder, "bin", name))}]}
                for name in sorted(os.listdir(os.path.join(folder, "bin")))]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "application", "name": "conclave"}},
            "components": binaries + [debian_component(package) for package in sorted(packages)]}


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.path.isdir(os.path.join(sys.argv[1], "lib")):
        sys.exit("usage: sbom.py FOLDER (with bin and lib in it)")
    json.dump(bill_of(sys.argv[1]), sys.stdout, indent=2)
    print()
