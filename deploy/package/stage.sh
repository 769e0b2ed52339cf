#!/usr/bin/env bash
# Puts the built binaries and every library they need beyond glibc into a folder that works wherever it is copied:
#   deploy/package/stage.sh FOLDER        (FOLDER/bin, FOLDER/lib, FOLDER/sbom.json)
# Builds first, or takes what CONCLAVE_BINARIES holds. The image files and make_tarball.sh both start from here.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:?usage: deploy/package/stage.sh FOLDER}

command -v patchelf >/dev/null || { echo "stage: patchelf is missing: apt-get install patchelf" >&2; exit 1; }
if [ -z "${CONCLAVE_BINARIES:-}" ]; then
  bazel build --color=no --curses=no --noshow_progress --ui_event_filters=-info \
    //cli:conclave //gateway //router_service //expert_service //placement_service >&2
  CONCLAVE_BINARIES=bazel-bin
fi

mkdir -p "$target/bin" "$target/lib"
binaries=(cli/conclave gateway/gateway router_service/router_service expert_service/expert_service
  placement_service/placement_service)
for binary in "${binaries[@]}"; do
  install -m 755 "$CONCLAVE_BINARIES/$binary" "$target/bin/"
done

# Libraries that come with every Linux of the same age or younger; all others travel along.
glibc='^(ld-linux-x86-64|libc|libm|libmvec|libpthread|libdl|librt|libresolv|libutil|libanl)\.so'
libraries() { ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u; }
for library in $(libraries "$target"/bin/*); do
  name=$(basename "$library")
  [[ $name =~ $glibc ]] || install -m 644 "$(readlink -f "$library")" "$target/lib/$name"
done
# UCX finds its transports by name, in a folder beside libuct.
if [ -e "$target"/lib/libuct.so.0 ]; then
  mkdir -p "$target/lib/ucx"
  install -m 644 /usr/lib/x86_64-linux-gnu/ucx/*.so.0 "$target/lib/ucx/" 2>/dev/null || true
fi

# $ORIGIN is for the loader to expand.
# shellcheck disable=SC2016
for file in "$target"/bin/*; do patchelf --set-rpath '$ORIGIN/../lib' "$file"; done
# shellcheck disable=SC2016
for file in "$target"/lib/*.so*; do patchelf --set-rpath '$ORIGIN' "$file"; done
python3 deploy/package/sbom.py "$target" >"$target/sbom.json"
