#!/usr/bin/env bash
# Runs a command as P processes on this machine that join as the hosts of a pod,
# each with D devices of its CPU. From the project's root:
#   scripts/fake_pod.sh P D command...
# for example  scripts/fake_pod.sh 2 4 .venv/bin/python -m experiments.attribute
#   --config=configs/astra/digits.py:smoke --workdir=build/pod
# The output of process p goes to $LOGS/p.log (LOGS: a folder; without it, a new
# one, which is named). Status 0 if every process ended so.
set -u
if [ $# -lt 3 ]; then
  sed -n '2,9s/^# //p' "$0" >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
logs=${LOGS:-$(mktemp -d)}
port=$((20000 + RANDOM % 20000))
mkdir -p "$logs"
pids=()
for ((p = 0; p < processes; p++)); do
  TDA_NUM_PROCESSES=$processes TDA_PROCESS_ID=$p \
    TDA_COORDINATOR=127.0.0.1:$port JAX_PLATFORMS=cpu \
    JAX_NUM_CPU_DEVICES=$devices NPROC=${NPROC:-32} \
    XLA_FLAGS="--xla_force_host_platform_device_count=$devices ${XLA_FLAGS:-}" \
    "$@" > "$logs/$p.log" 2>&1 &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
for ((p = 0; p < processes; p++)); do
  echo "== process $p ($logs/$p.log)"
  tail -n 3 "$logs/$p.log" | cut -c1-400
done
exit "$status"
