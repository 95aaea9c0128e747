#!/usr/bin/env bash
# Makes sure that the real clients and servers that the tests drive are here: installs what is missing when root,
# else says exactly what to install.
set -euo pipefail

declare -A package=(
  [skopeo]=skopeo [buildah]=buildah [docker-registry]=docker-registry [xz]=xz-utils [dpkg]=dpkg
  [qemu-img]=qemu-utils [fsck.fat]=dosfstools [mcopy]=mtools [sfdisk]=fdisk [cpio]=cpio [curl]=curl [e2fsck]=e2fsprogs
  [qemu-system-x86_64]="qemu-system-x86 ovmf" [runc]=runc [newuidmap]=uidmap [git]=git
)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=(${package[$program]}) # unquoted: some are two
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "the tests drive tools that are not here; install them with:" >&2
  echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# docker-registry's service must not start: the tests run their own.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
