#!/usr/bin/env bash
# What one host of a TPU slice does, in its own checkout of the project;
# scripts/tpu.sh and scripts/jobset.yaml call it on every host.
#   scripts/tpu_host.sh build               the environment, with JAX for TPUs
#   scripts/tpu_host.sh bucket NAME         mounts gs://NAME as /mnt/NAME
#   scripts/tpu_host.sh mark FOLDER TOKEN   leaves the token in the folder
#   scripts/tpu_host.sh sees FOLDER TOKEN   fails if the folder has another one
#   scripts/tpu_host.sh run MODULE FLAGS    python -m MODULE FLAGS, to its end
#   scripts/tpu_host.sh follow              what runs, from its first line on
#   scripts/tpu_host.sh idle                fails if something runs
#   scripts/tpu_host.sh stop                ends what runs
# `run` outlives the connection: started again with the same words while it runs,
# it follows what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
STATE=build/tpu # lock: held while a command runs; its words, pid, log, status

fail() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

install() {
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq -y install "$@"
}

build() {
  local python
  command -v make > /dev/null || install make
  for python in python3.11 python3.12 python3.13 python3; do
    if "$python" -c \
      'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
      2> /dev/null; then
      make tpu PYTHON="$python"
      return
    fi
  done
  # The image has an older Python (Ubuntu 22.04 has 3.10), or one without venv.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
  export UV_PYTHON_PREFERENCE=only-managed
  python3 -m uv python install --quiet 3.12
  make tpu PYTHON="$(python3 -m uv python find 3.12)"
}

bucket() {
  local folder=/mnt/$1 keys=/usr/share/keyrings/cloud.google.asc
  local packages=https://packages.cloud.google.com/apt
  if mountpoint -q "$folder"; then
    return
  fi
  if ! command -v gcsfuse > /dev/null; then
    curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$keys" > /dev/null
    echo "deb [signed-by=$keys] $packages gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    install gcsfuse
  fi
  sudo mkdir -p "$folder"
  sudo chown "$(id -u):$(id -g)" "$folder"
  # A host must see at once what another wrote, and checkpoints are folders that
  # are renamed when they are complete.
  gcsfuse --implicit-dirs --rename-dir-limit=1000000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    "$1" "$folder"
}

mark() {
  mkdir -p "$1"
  printf '%s' "$2" > "$1/.shared"
}

sees() {
  [ "$(cat "$1/.shared" 2> /dev/null)" = "$2" ] || fail "$1 is not the folder" \
    "that the first host has: --workdir must be one that all hosts share," \
    "as gs://BUCKET/FOLDER or a Filestore that is mounted on all of them"
}

idle() {
  mkdir -p "$STATE"
  flock -n "$STATE/lock" true || fail "a command runs here" \
    "($(cat "$STATE/words")): wait for it by --follow, or end it by --stop"
}

run() {
  local words
  words=$(printf '%q ' "$@")
  mkdir -p "$STATE"
  exec 9>> "$STATE/lock"
  if flock -n 9; then
    rm -f "$STATE/status"
    : > "$STATE/log"
    echo "$words" > "$STATE/words"
    # Its own session, so that neither a hangup nor an interrupt reaches it; it
    # inherits the lock.
    TDA_DISTRIBUTED=1 setsid bash -c \
      'status=0; "${@:2}" || status=$?; echo "$status" > "$1"' \
      tpu_host "$STATE/status" .venv/bin/python -u -m "$@" \
      < /dev/null >> "$STATE/log" 2>&1 &
    echo $! > "$STATE/pid"
  elif [ "$(cat "$STATE/words")" != "$words" ]; then
    idle # fails, and says so, unless that has just ended
    run "$@"
    return
  fi
  exec 9>&-
  follow
}

follow() {
  [ -e "$STATE/pid" ] || fail "nothing was run here"
  if ! flock -n "$STATE/lock" true; then
    tail -s 0.2 -n +1 -f --pid="$(cat "$STATE/pid")" "$STATE/log"
  else
    cat "$STATE/log"
  fi
  [ -e "$STATE/status" ] || fail "the command was ended before its end: run the" \
    "same command again, which continues"
  exit "$(cat "$STATE/status")"
}

stop() {
  mkdir -p "$STATE"
  flock -n "$STATE/lock" true && return
  kill -- -"$(cat "$STATE/pid")"
  flock -w 30 "$STATE/lock" true || kill -KILL -- -"$(cat "$STATE/pid")"
}

case ${1-} in
  build | bucket | mark | sees | run | follow | idle | stop) "$@" ;;
  *)
    sed -n '2,14s/^# //p' "$0" >&2
    exit 2
    ;;
esac
