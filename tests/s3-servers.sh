#!/bin/sh
# Builds two S3 servers from their modules, outside of ours, and runs the store's conformance suite and the end-to-end scripts
# against each. S3_SERVERS names a directory for their programs; those that are there are not built again.
set -eu
cd "$(dirname "$0")/.."
dir=${S3_SERVERS:-bin/s3-servers}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
data=$(mktemp -d)
pid=
failed=0
trap 'test -z "$pid" || kill "$pid" 2>/dev/null || true; rm -rf "$data"' EXIT

install() { # PROGRAM PACKAGE@VERSION
	test -x "$dir/$1" || (cd / && GOBIN="$dir" GOFLAGS=-mod=mod CGO_ENABLED=0 go install -trimpath "$2")
}

against() { # URL
	echo "== ${1##*@}"
	n=0
	until curl -s -o /dev/null "http://${1##*@}"; do
		n=$((n + 1))
		test $n -lt 100 || { echo "the server does not answer:"; cat "$data/log"; exit 1; }
		sleep 0.2
	done
	BAKEFARM_TEST_S3=$1 go test -count 1 -tags containers_image_openpgp ./imagestore/s3store || failed=1
	BAKEFARM_TEST_S3=$1 go test -count 1 -tags containers_image_openpgp -run TestScripts ./cmd/bakefarm || failed=1
	kill "$pid"
	wait "$pid" 2>/dev/null || true
	pid=
}

install versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
mkdir -p "$data/versity"
"$dir/versitygw" --port 127.0.0.1:17070 --access key --secret 'secret/+1' --quiet posix "$data/versity" >"$data/log" 2>&1 &
pid=$!
against 'http://key:secret%2F+1@127.0.0.1:17070/bakefarm-test'

install minio github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
MINIO_ROOT_USER=minio MINIO_ROOT_PASSWORD=secret/+1 "$dir/minio" server --quiet --address 127.0.0.1:17090 "$data/minio" >"$data/log" 2>&1 &
pid=$!
against 'http://minio:secret%2F+1@127.0.0.1:17090/bakefarm-test'
exit $failed
