#!/usr/bin/env bash
# Makes certificates for a cluster's own use, or for trying TLS out:  tools/make_certificates.sh DIR [HOST…]
#   DIR/ca.pem                      the root, for --tls-ca and --tls-client-ca; its key is DIR/ca.key: keep it away
#   DIR/service.pem, service.key    for every service: good as a server on the HOSTs (default: localhost 127.0.0.1 ::1)
#                                   and as a client of others
# An existing root is used again, so that a second run renews the services' certificate. EC keys, 398 days.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
directory=$1; shift
[ $# -gt 0 ] || set -- localhost 127.0.0.1 ::1
umask 077
mkdir -p "$directory"
days=398

names=""
for host in "$@"; do
  case "$host" in
    *[!0-9.]*) case "$host" in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
    *) kind=IP ;;
  esac
  names="$names${names:+,}$kind:$host"
done

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

if [ ! -f "$directory/ca.key" ]; then
  new_key "$directory/ca.key"
  openssl req -x509 -new -key "$directory/ca.key" -days 3650 -subj "/CN=Conclave cluster root" \
    -addext "basicConstraints=critical,CA:true" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$directory/ca.pem"
fi
# Beside the old ones and then renamed: services that run read certificate and key while this works.
new_key "$directory/service.key.new"
openssl req -new -key "$directory/service.key.new" -subj "/CN=conclave" |
  openssl x509 -req -CA "$directory/ca.pem" -CAkey "$directory/ca.key" -CAcreateserial -days "$days" \
    -extfile <(printf '%s\n' basicConstraints=CA:false keyUsage=digitalSignature \
      extendedKeyUsage=serverAuth,clientAuth "subjectAltName=$names") \
    -out "$directory/service.pem.new" 2>/dev/null
mv "$directory/service.key.new" "$directory/service.key"
mv "$directory/service.pem.new" "$directory/service.pem"
