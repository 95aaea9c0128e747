#!/bin/sh
# Builds the BIOS's loader: boot.bin and loader.bin, whose bytes are part of every disk with boot: hybrid. After a change
# raise the number of plan.Formats' disk kinds. Wants binutils for x86.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
as --32 -o "$dir/loader.o" loader.S
ld -m elf_i386 -nostdlib --section-start=.boot=0x7c00 --section-start=.loader=0x8000 -e boot -o "$dir/loader" "$dir/loader.o"
for part in boot loader; do
  objcopy -O binary -j .$part "$dir/loader" $part.bin
done
