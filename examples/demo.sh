#!/usr/bin/env bash
# make demo: the farm's main job from start to end, in a temporary directory, on this machine's own Debian mirror.
# Needs bin/bakefarm (make build does it), Go, and the tools below. Works as an ordinary user.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# --- what the demo needs of the machine ------------------------------------------------------------------------------
declare -A package=([curl]=curl [tar]=tar [gzip]=gzip [unshare]=util-linux [xz]=xz-utils)
missing=()
for program in "${!package[@]}"; do command -v "$program" >/dev/null || missing+=("${package[$program]}"); done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" -eq 0 ] || fail "please install: sudo apt-get install --no-install-recommends ${missing[*]}"
  say "Installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/bakefarm-demo.XXXXXX")
farm='' app=''
cleanup() {
  [ -z "$app" ] || { kill "$app" 2>/dev/null && wait "$app" 2>/dev/null; } || true
  [ -z "$farm" ] || { kill "$farm" 2>/dev/null && wait "$farm" 2>/dev/null; } || true
  chmod -R u+rwx "$work" 2>/dev/null || true # images may hold directories that even their owner cannot write
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

bakefarm() { bin/bakefarm "$@"; }
started=$SECONDS

# --- a farm in one process -------------------------------------------------------------------------------------------
say "A farm: NATS, S3, one coordinator, two workers and the API, in one process"
bin/bakefarm up --data "$work/farm" --listen 127.0.0.1:0 --workers 2 >"$work/up.out" 2>"$work/up.log" &
farm=$!
for _ in $(seq 100); do
  grep -q 'http://' "$work/up.out" && break
  kill -0 "$farm" 2>/dev/null || { cat "$work/up.log" >&2; fail "the farm did not start"; }
  sleep 0.1
done
BAKEFARM_SERVER=$(grep -om1 'http://[0-9.]*:[0-9]*' "$work/up.out") || { cat "$work/up.log" >&2; fail "the farm is not ready after 10 s"; }
export BAKEFARM_SERVER
echo "$BAKEFARM_SERVER"

# --- the first bake --------------------------------------------------------------------------------------------------
say "The app: a small Go web server, built on the spot"
cp -r examples/hello "$work/hello"
build() { CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/hello/dist/hello" "$1"; }
run build ./examples/hello
run cat examples/hello/bakefarm.yaml

say "The first bake: Debian packages are fetched and converted once per farm"
run bakefarm bake "$work/hello/bakefarm.yaml"

# --- pull it back, run it --------------------------------------------------------------------------------------------
say "Pulled back through the registry API, unpacked and run"
run bakefarm images pull demo/hello:dev --oci "$work/oci"
manifest=$(grep -o '"digest": *"sha256:[0-9a-f]*"' "$work/oci/index.json" | head -n 1 | grep -o '[0-9a-f]\{64\}')
mkdir "$work/root"
# The manifest lists the config's digest first, then the layers' in order.
grep -o '"digest": *"sha256:[0-9a-f]*"' "$work/oci/blobs/sha256/$manifest" | grep -o '[0-9a-f]\{64\}' | tail -n +2 |
  while read -r layer; do tar -xzf "$work/oci/blobs/sha256/$layer" -C "$work/root" --no-same-owner; done

port=$((20000 + RANDOM % 20000))
start_app() {
  if unshare --user --map-root-user true 2>/dev/null; then
    PORT=$port unshare --user --map-root-user chroot "$work/root" /opt/hello/hello &
  elif [ "$(id -u)" -eq 0 ]; then
    PORT=$port chroot "$work/root" /opt/hello/hello &
  else
    fail "neither root nor user namespaces: enable them with sysctl kernel.unprivileged_userns_clone=1"
  fi
  app=$!
}
start_app
answer=$(curl -fsS --retry 50 --retry-delay 0 --retry-connrefused --retry-max-time 10 "http://127.0.0.1:$port/") || fail "the image's server does not answer"
echo "it answers: $answer"
kill "$app" && wait "$app" 2>/dev/null || true
app=''

# --- a one-line change -----------------------------------------------------------------------------------------------
say "One line of the app changes: the second bake does only what is new"
mkdir "$work/hello/src" && cp examples/hello/*.go "$work/hello/src/"
sed -i 's/^const greeting = .*/const greeting = "hello from the second bake"/' "$work/hello/src/main.go"
cmp -s "$work/hello/src/main.go" examples/hello/main.go && fail "examples/hello/main.go has no line 'const greeting = …'"
run build "$work/hello/src/main.go"
run bakefarm bake "$work/hello/bakefarm.yaml" -o json >"$work/second.json"
second=$(sed -n 's/.*"bake": *"\([^"]*\)".*/\1/p' "$work/second.json" | head -n 1)
version=$(sed -n 's/.*"version": *"\([^"]*\)".*/\1/p' "$work/second.json" | head -n 1)
run bakefarm explain "$second"

say "And with nothing changed, the answer comes from the catalog"
run bakefarm bake "$work/hello/bakefarm.yaml"

# --- the disk ---------------------------------------------------------------------------------------------------------
say "The same as a disk: it boots before it is published"
if lack=$(bakefarm doctor | sed -n 's/^virtual machines, amd64 *less *//p') && [ -z "$lack" ]; then
  run bakefarm bake "$work/hello/bakefarm.yaml" --set 'tests=[{http: {port: 8080, path: /healthz}, within: 2m, on: disk}]'
else
  echo "skipped: $lack"
fi

# --- publish ---------------------------------------------------------------------------------------------------------
say "Promoted to prod, with a history to roll back by"
run bakefarm channels promote demo/hello prod "$version"
run bakefarm channels show demo/hello prod
run bakefarm images ls
run bakefarm retention plan

say "Done in $((SECONDS - started)) s. Where to look next"
cat <<TXT
  bin/bakefarm up                     a farm that stays; then, in another terminal:
  bin/bakefarm bake RECIPE            bake a recipe of your own (docs/recipe.md)
  bin/bakefarm bakes ls               what was baked; 'explain BAKE' says why each shard was a hit or a miss
  skopeo inspect --tls-verify=false docker://127.0.0.1:7667/NAME:VERSION
                                      any OCI client can pull from the farm
  docs/architecture.md                how it works
TXT
