#!/usr/bin/env bash
# Installs the Debian 12 packages that Conclave builds with, and prints nothing where all are there already.
#   tools/install_dependencies.sh [build] [test] [arm64]     (default: build)
# arm64: a cross compiler, and Debian's packages of that architecture beside the machine's own.
set -euo pipefail

build=(bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms bazel-skylib g++ python3
  libgrpc-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  prometheus-cpp-dev libcli11-dev nlohmann-json3-dev libyaml-cpp-dev libxxhash-dev libpcre2-dev
  libboost-dev libssl-dev libedit-dev libucx-dev)
test=(libgtest-dev libgmock-dev clang libclang-rt-14-dev python3-venv prometheus patchelf openssl shellcheck chromium
  iproute2 nftables)

arm64=(g++-aarch64-linux-gnu lld qemu-user libabsl-dev:arm64 libgtest-dev:arm64 libgmock-dev:arm64)

wanted=()
for group in "${@:-build}"; do
  case "$group" in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    arm64) wanted+=("${arm64[@]}") ;;
    *) echo "install_dependencies: unknown group '$group'; known: build test arm64" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -qE '^(install ok installed)+$' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "install_dependencies: run as root, or install sudo, to get: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
log=$(mktemp)
foreign=(true)
[[ " ${missing[*]} " != *:arm64\ * ]] || foreign=("${as_root[@]}" dpkg --add-architecture arm64)
if ! { "${foreign[@]}" && "${as_root[@]}" apt-get update -qq &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "install_dependencies: apt-get failed; Debian 12 (bookworm) is what Conclave is built on" >&2
  exit 1
fi
rm -f "$log"
