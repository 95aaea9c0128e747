#!/bin/sh
# Bakes bakefarm's own image on a farm of its own, and writes it as an OCI layout: deploy/image/image.sh BINARY DIRECTORY
set -eu
bakefarm=$(realpath "$1")
out=$2
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'kill "$farm" 2>/dev/null; wait "$farm" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
farm=
mkdir "$work/context" "$work/context/dist"
cp "$here/bakefarm.yaml" "$work/context/"
cp "$bakefarm" "$work/context/dist/bakefarm"
"$bakefarm" up --data "$work/data" --listen 127.0.0.1:0 >"$work/ready" 2>"$work/log" &
farm=$!
for _ in $(seq 300); do
	grep -q ready "$work/ready" && break
	kill -0 "$farm" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
	sleep 0.1
done
BAKEFARM_SERVER=$(sed -n 's/.* at \(http[^ ]*\) .*/\1/p' "$work/ready")
export BAKEFARM_SERVER
version=$("$bakefarm" bake "$work/context" -o json | sed -n 's/^  "version": "\(.*\)",$/\1/p')
rm -rf "$out"
"$bakefarm" images pull "bakefarm/bakefarm:$version" --oci "$out"
echo "bakefarm/bakefarm:$version is in $out; put it into Docker with: skopeo copy oci:$out docker-daemon:bakefarm:latest"
