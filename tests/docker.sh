#!/usr/bin/env bash
# Runs docker/docker-compose.yml under a real Docker engine: Geth, the gateway in its image, Prometheus.
# Owns the engine (a private one in a network of its own, gone at the end); tests nothing of what the gateway says
# beyond the fact that a client on the published port gets the node's heads.
#
# `make test` calls it after `cargo test`. Needs root and what tests/setup.sh installs; a missing piece is a failure.
#   CHAINCAST_STATIC_BINARY  a static `chaincast` to put into the image; built here if unset (target/static)
#
# Registries of images cannot be reached everywhere, so the images of others are stood in for by images with the same
# name, entry point and user, made of the Geth and the Prometheus on this machine; likewise the builder stage of
# docker/Dockerfile, by a build outside of Docker from the files that .dockerignore admits. All else is as shipped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CHAINCAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chaincast}
compose_file=$root/docker/docker-compose.yml
# Not by PATH, where another `docker` may be the client of some other engine.
docker=/usr/bin/docker
compose=/usr/bin/docker-compose

say() { printf 'docker: %s\n' "$*"; }
fail() {
  # The containers' words first, so that the reason stands last.
  if [ -n "${engine:-}" ]; then compose logs --no-color --tail 20 >&2 2>/dev/null || true; fi
  printf '\ndocker: FAILED: %s\n' "$1" >&2
  shift
  printf '%s\n' "$@" >&2
  exit 1
}

wait_for() { # seconds, what is awaited, command: until it succeeds
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for $what"
    sleep 0.2
  done
}

# ---- on the machine itself ------------------------------------------------------------------------------------

need_everything() {
  local path
  [ "$(id -u)" = 0 ] || fail "needs root, to start a Docker engine of its own"
  for path in $docker $compose /usr/sbin/dockerd /usr/bin/prometheus /usr/bin/promtool "$cache/bin/geth" \
    "$root/tests/node_modules/ws"; do
    [ -e "$path" ] || fail "$path is missing: run tests/setup.sh, or \`make setup\`"
  done
  for path in unshare:util-linux setpriv:util-linux mount ip:iproute2 iptables node:nodejs; do
    command -v "${path%%:*}" >/dev/null || fail "'${path%%:*}' is missing: Debian's package ${path#*:} has it"
  done
}

check_files() {
  local profile
  for profile in dev mainnet; do
    $compose -f "$compose_file" --profile $profile config -q || fail "profile $profile of $compose_file is not valid"
  done
  promtool check config "$root/docker/prometheus.yml" >/dev/null || fail "docker/prometheus.yml is not valid"
  say "the compose file is valid for both profiles, prometheus.yml as well"
}

# Builds as the builder stage does, from no other files than it sees.
build_static() {
  local host context=$root/target/static/context file
  rm -rf "$context"
  mkdir -p "$context"
  while read -r file; do cp -a "$root/$file" "$context/"; done < <(sed -n 's/^!//p' "$root/.dockerignore")
  host=$(rustc -vV | sed -n 's/^host: //p')
  say "building the static binary"
  (cd "$context" && RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR="$root/target/static" \
    cargo build --release --locked --bin chaincast --target "$host") ||
    fail "the static build failed"
  binary=$root/target/static/$host/release/chaincast
}

# Everything that is started lives in namespaces that end with this script, however it ends. The engine may set up
# bridges, address translation and forwarding as it likes there; the machine's own network never sees them.
run_inside() {
  local forwarding
  forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc \
    "${BASH_SOURCE[0]}" --inside "$work" "$binary" </dev/null &
  inside=$!
  wait $inside || exit 1
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = "$forwarding" ] || fail "net.ipv4.ip_forward of the machine has changed"
}

clean_up() {
  trap - EXIT
  if [ -n "${inside:-}" ] && kill -0 "$inside" 2>/dev/null; then
    kill -KILL "$inside"
    wait "$inside" 2>/dev/null || true
  fi
  # The engine leaves empty control groups behind, under the name that it was given for them.
  find /sys/fs/cgroup -depth -type d -path "*/$(basename "$work")*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "$work"
}

main() {
  need_everything
  work=$(mktemp -d "${TMPDIR:-/tmp}/chaincast-docker.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  check_files
  binary=${CHAINCAST_STATIC_BINARY:-}
  [ -n "$binary" ] || build_static
  [ -x "$binary" ] || fail "CHAINCAST_STATIC_BINARY: $binary is no program"
  run_inside
  say "passed in $SECONDS s"
}

# ---- inside the namespaces ------------------------------------------------------------------------------------

start_engine() {
  ip link set lo up
  # A private /run keeps the engine and its containerd apart from any that the machine runs.
  mount -t tmpfs tmpfs /run
  echo '{}' >"$work/daemon.json"
  export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/client
  unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH COMPOSE_FILE COMPOSE_PROFILES COMPOSE_PROJECT_NAME
  dockerd --host "$DOCKER_HOST" --config-file "$work/daemon.json" --data-root "$work/data" --exec-root "$work/exec" \
    --pidfile "$work/dockerd.pid" --cgroup-parent "/$(basename "$work")" >"$work/dockerd.log" 2>&1 &
  engine=$!
  wait_for 30 "the Docker engine" engine_answers
}

engine_answers() {
  kill -0 $engine 2>/dev/null || fail "dockerd ended:" "$(tail -n 20 "$work/dockerd.log")"
  $docker version >/dev/null 2>&1
}

compose() { $compose -f "$compose_file" --profile dev "$@"; }

# An image with one program of this machine and the C library that it needs, under the name that compose asks for.
stand_in() { # image, program, path in the image, more lines for its Dockerfile
  local context=$work/stand-in library
  rm -rf "$context"
  mkdir -p "$context/root$(dirname "$3")" "$context/empty"
  cp -L "$2" "$context/root$3"
  for library in $(ldd "$2" | grep -o '/[^ ]*'); do
    mkdir -p "$context/root$(dirname "$library")"
    cp -L "$library" "$context/root$library"
  done
  printf 'FROM scratch\nCOPY root/ /\n%s\n' "$4" >"$context/Dockerfile"
  $docker build -q -t "$1" "$context" >/dev/null || fail "the stand-in for $1 cannot be built"
}

image_of() { # service
  compose config | awk -v name="  $1:" '$0 == name { found = 1 } found && $1 == "image:" { print $2; exit }'
}

build_images() {
  local builder=$work/builder
  stand_in "$(image_of geth-dev)" "$cache/bin/geth" /usr/local/bin/geth 'ENV PATH=/usr/local/bin
ENTRYPOINT ["geth"]'
  stand_in "$(image_of prometheus)" /usr/bin/prometheus /bin/prometheus 'COPY --chown=65534:65534 empty /prometheus
USER 65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]'
  # The final stage copies from `builder`, here an image of that name with what the stage of that name leaves.
  mkdir -p "$builder/rootfs/etc/ssl/certs" "$builder/state"
  chmod 0700 "$builder/state"
  cp -L "$binary" "$builder/rootfs/chaincast"
  cp -L /etc/ssl/certs/ca-certificates.crt "$builder/rootfs/etc/ssl/certs/"
  printf 'FROM scratch\nCOPY . /\n' | $docker build -q -t builder -f - "$builder" >/dev/null
  sed -n '/^FROM scratch AS final$/,$p' "$root/docker/Dockerfile" |
    $docker build -q -t "$(image_of gateway)" -f - "$work/stand-in/empty" >/dev/null ||
    fail "the final stage of docker/Dockerfile cannot be built"
}

http() { # URL: prints the body; fails unless the answer is a success
  node -e 'fetch(process.argv[1]).then(async (answer) => {
    console.log(await answer.text());
    process.exit(answer.ok ? 0 : 1);
  }, () => process.exit(1));' "$1"
}

# A stock WebSocket client: says `head N` for each head, and `closed CODE` at the end.
subscribe() {
  cd "$root/tests"
  exec node --input-type=module - ws://127.0.0.1:8080 <<'JS'
import WebSocket from 'ws';
const socket = new WebSocket(process.argv[2]);
socket.on('open', () => socket.send('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}'));
socket.on('message', (text) => {
  const { id, result, params } = JSON.parse(text);
  console.log(id === 1 ? `subscribed ${result}` : `head ${Number(params.result.number)}`);
});
socket.on('close', (code) => console.log(`closed ${code}`));
socket.on('error', (error) => console.log(`error ${error.message}`));
JS
}

check_contents() {
  local container found
  container=$($docker create "$(image_of gateway)")
  # Less what the engine puts into every container.
  found=$($docker export "$container" | tar -t | grep -v '/$' | sort |
    grep -vxE '\.dockerenv|dev/console|etc/(hostname|hosts|mtab|resolv\.conf)')
  $docker rm "$container" >/dev/null
  [ "$found" = $'chaincast\netc/ssl/certs/ca-certificates.crt' ] || fail "the image has other files:" "$found"
  say "the image holds the binary and the certificate authorities, no shell"
}

# What the kernel says, not what was asked for.
check_confinement() {
  local pid status line
  [ "$($docker inspect -f '{{.State.Status}} {{.RestartCount}}' "$gateway")" = "running 0" ] ||
    fail "the gateway does not start, or not at once"
  pid=$($docker inspect -f '{{.State.Pid}}' "$gateway")
  status=$(tr -s '\t ' ' ' <"/proc/$pid/status")
  for line in 'Uid: 65532 65532 65532 65532' 'Gid: 65532 65532 65532 65532' 'CapPrm: 0000000000000000' \
    'CapBnd: 0000000000000000' 'NoNewPrivs: 1' 'Seccomp: 2'; do
    grep -qx "$line" <<<"$status" || fail "the gateway's process does not have '$line':" "$status"
  done
  awk '$5 == "/" { print $6 }' "/proc/$pid/mountinfo" | grep -q '^ro,' || fail "the root file system is writable"
  [ "$($docker inspect -f '{{.HostConfig.Memory}}' "$gateway")" -gt 0 ] || fail "the gateway's memory has no bound"
  say "the gateway runs as 65532, without capabilities or new privileges, on a read-only root, its memory bounded"
}

check_admin() {
  local address
  address=$($docker inspect -f '{{.NetworkSettings.Networks.chaincast_metrics.IPAddress}}' "$gateway")
  wait_for 40 "/readyz to answer 200" http "http://$address:9464/readyz" >/dev/null
  if http http://127.0.0.1:9464/livez >/dev/null; then fail "the admin port is published"; fi
  say "/readyz answers 200, on the containers' network only"
}

heads_seen() {
  kill -0 "$client" 2>/dev/null || fail "the client ended:" "$(cat "$work/client.log")"
  [ "$(grep -c '^head ' "$work/client.log")" -ge "$1" ]
}

check_heads() {
  subscribe >"$work/client.log" 2>&1 &
  client=$!
  wait_for 40 "two heads on the published port" heads_seen 2
  sed -n '/^head /s/head //p' "$work/client.log" | awk 'NR > 1 && $1 != last + 1 { exit 1 } { last = $1 }' ||
    fail "heads do not follow one another:" "$(cat "$work/client.log")"
  say "a client on the published port gets heads: $(grep '^head ' "$work/client.log" | head -n 2 | paste -sd ,)"
}

scraped() { http 'http://127.0.0.1:9090/api/v1/query?query=up%7Bjob="chaincast"%7D' | grep -q '"1"\]'; }
healthy() { [ "$($docker inspect -f '{{.State.Health.Status}}' "$(compose ps -q geth-dev)")" = healthy ]; }

check_stop() {
  # With a client connected. Were it not gone after 10 s, Docker would kill it and the code be 137.
  local code
  $docker stop --time 10 "$gateway" >/dev/null
  code=$($docker inspect -f '{{.State.ExitCode}}' "$gateway")
  [ "$code" = 0 ] || fail "after \`docker stop\` the gateway's exit code is $code, not 0"
  wait $client || true
  grep -qx 'closed 1012' "$work/client.log" || fail "the client was not closed with 1012:" "$(tail -n 3 "$work/client.log")"
  say "\`docker stop\` closes the client with 1012 and ends the gateway with 0"
}

stop_engine() {
  local status=$?
  trap - EXIT
  compose down --volumes --timeout 1 >/dev/null 2>&1 || true
  kill -TERM "$engine" 2>/dev/null && wait "$engine" || true
  exit $status
}

main_inside() {
  work=$1 binary=$2
  trap stop_engine EXIT
  start_engine
  build_images
  GETH_DEV_PERIOD=1 compose up --detach --no-build >"$work/up.log" 2>&1 || fail "compose up:" "$(tail "$work/up.log")"
  gateway=$(compose ps -q gateway)
  check_contents
  check_confinement
  check_admin
  check_heads
  wait_for 40 "Geth to be healthy" healthy
  wait_for 40 "Prometheus to scrape the gateway" scraped
  say "Geth is healthy, and Prometheus scrapes the gateway"
  check_stop
}

if [ "${1:-}" = --inside ]; then
  shift
  main_inside "$@"
else
  main
fi
# Bash reads a script as it goes: an edit while it runs must not be taken for its end.
exit
