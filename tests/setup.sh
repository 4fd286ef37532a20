#!/usr/bin/env bash
# Installs what the end-to-end tests run besides Rust: real nodes, real clients, a browser, promtool, Docker.
# Owns where these lie (the cache) and at which version; it does not run any test, and it installs no language
# toolchain. Safe to run any number of times and from several checkouts at once; does nothing when all is there.
#
#   $CHAINCAST_CACHE  (else $XDG_CACHE_HOME/chaincast, else ~/.cache/chaincast)
#     bin/geth, bin/ethclient    Go programs
#     npm/node_modules           viem, ethers, web3.js, playwright-core, anvil; linked as tests/node_modules
#     python/bin/python          a venv with web3.py
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CHAINCAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chaincast}
clients=$here/clients
geth_module=github.com/ethereum/go-ethereum
geth_version=v1.17.0

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

need_toolchain() { # command, how to get it
  command -v "$1" >/dev/null || fail "'$1' is missing: $2"
}

# A stamp holds the digest of what a folder was installed from, so a changed pin reinstalls and nothing else does.
digest() { cat "$@" | sha256sum | cut -c1-32; }
stamped() { [ -f "$cache/stamps/$1" ] && [ "$(cat "$cache/stamps/$1")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$cache/stamps/$1"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
  else
    fail "needs root for: $*" "run that as root, then this script again"
  fi
}

debian_packages() {
  local missing=() pair path
  # By path: another 'docker' earlier in PATH may be the client of some other engine.
  for pair in chromium:/usr/bin/chromium prometheus:/usr/bin/promtool docker.io:/usr/sbin/dockerd \
    docker.io:/usr/bin/docker docker-compose:/usr/bin/docker-compose; do
    path=${pair#*:}
    [ -x "$path" ] || missing+=("${pair%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    fail "not a Debian system; install by hand, so that these exist: chromium, promtool, dockerd, docker, docker-compose"
  say "Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get update -qq </dev/null || fail "apt-get update failed: no package list can be read"
  as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null ||
    fail "apt-get install failed for: ${missing[*]}"
}

geth() {
  local have
  have=$(go version -m "$cache/bin/geth" 2>/dev/null | awk '$1 == "mod" { print $2, $3 }') || true
  [ "$have" = "$geth_module $geth_version" ] && return 0
  say "geth $geth_version (builds from source, some minutes)"
  GOBIN=$cache/bin GOFLAGS= go install "$geth_module/cmd/geth@$geth_version" </dev/null ||
    fail "go install of geth $geth_version failed"
}

ethclient() {
  local want
  want=$(digest "$clients/ethclient/go.mod" "$clients/ethclient/go.sum" "$clients/ethclient/"*.go)
  [ -x "$cache/bin/ethclient" ] && stamped ethclient "$want" && return 0
  say "ethclient program"
  (cd "$clients/ethclient" && GOFLAGS=-mod=readonly go build -o "$cache/bin/ethclient" . </dev/null) ||
    fail "go build of tests/clients/ethclient failed"
  stamp ethclient "$want"
}

npm_packages() {
  local want
  want=$(digest "$clients/package.json" "$clients/package-lock.json")
  if ! { [ -d "$cache/npm/node_modules" ] && stamped npm "$want"; }; then
    say "npm packages: $(grep -c '"node_modules/' "$clients/package-lock.json") at the locked versions"
    rm -rf "$cache/npm"
    mkdir -p "$cache/npm"
    cp "$clients/package.json" "$clients/package-lock.json" "$cache/npm/"
    # No scripts: none of these packages needs one to run, and anvil's would look for a download.
    (cd "$cache/npm" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null) ||
      fail "npm ci failed in $cache/npm"
    stamp npm "$want"
  fi
  # Node resolves an import from the importing file's folder upwards, and nowhere else.
  ln -sfn "$cache/npm/node_modules" "$here/node_modules"
}

python_packages() {
  local want
  want=$(digest "$clients/requirements.txt")
  [ -x "$cache/python/bin/python" ] && stamped python "$want" && return 0
  say "Python packages: $(grep -c '==' "$clients/requirements.txt") at the pinned versions"
  rm -rf "$cache/python"
  python3 -m venv "$cache/python" </dev/null ||
    fail "python3 -m venv failed: on Debian it is in the package python3-venv"
  "$cache/python/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
    -r "$clients/requirements.txt" </dev/null || fail "pip install of tests/clients/requirements.txt failed"
  "$cache/python/bin/pip" check >/dev/null || fail "tests/clients/requirements.txt does not list the whole tree"
  stamp python "$want"
}

need_toolchain go "version 1.24 or later, from go.dev/dl or the Debian package golang"
need_toolchain node "version 20 or later, from nodejs.org or the Debian package nodejs"
need_toolchain npm "it comes with Node.js; on Debian it is the package npm"
need_toolchain python3 "version 3.10 or later, on Debian the package python3"
mkdir -p "$cache/bin" "$cache/stamps"
exec 9>"$cache/setup.lock"
flock 9
debian_packages
geth
ethclient
npm_packages
python_packages
say "all there, in $cache"
