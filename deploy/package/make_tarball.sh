#!/usr/bin/env bash
# One archive that runs on any x86-64 Linux with glibc 2.36 or younger, from any folder:
#   deploy/package/make_tarball.sh [FOLDER]     writes FOLDER/conclave-VERSION-linux-x86_64.tar.gz (default: dist)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-dist}
version=$(sed -n 's/.*kVersion[^"]*"\([^"]*\)".*/\1/p' moe/daemon/version.h)
name=conclave-$version-linux-x86_64

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
deploy/package/stage.sh "$work/$name"
mkdir -p "$out" "$work/$name/share"
cp -r models/demo "$work/$name/share/demo-model"
cp LICENSE README.md "$work/$name/share/"
# Sorted and without times and owners: the same sources give the same archive.
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work" -c "$name" | gzip -n -6 >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"
