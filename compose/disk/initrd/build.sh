#!/bin/sh
# Builds the init of every architecture. Its bytes are part of every disk: the same toolchain makes the same ones, and
# what is here counts, whatever toolchain builds bakefarm. After a change raise the number of plan.Formats' disk kinds.
set -eu
for arch in amd64 arm64; do
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o init.$arch ../../../cmd/bakefarm-init
  gzip -9 -n -f init.$arch
done
