#!/usr/bin/env bash
# Runs one experiment on all hosts of a Cloud TPU slice, by gcloud. From the
# project's root:
#   scripts/tpu.sh --name=SLICE --zone=ZONE --workdir=WORKDIR [options] \
#     -- MODULE FLAGS...
# for example
#   scripts/tpu.sh --name=pod --zone=us-west4-a --workdir=gs://bucket/digits \
#     -- experiments.astra --config=configs/astra/digits.py
# runs  python -m experiments.astra --config=... --workdir=/mnt/bucket/digits  on
# each host. The same command continues one that was killed.
#   --workdir=gs://BUCKET/FOLDER   the bucket is mounted on every host as
#                       /mnt/BUCKET, by Cloud Storage FUSE
#   --workdir=/FOLDER   a folder that all hosts share already, as a Filestore
#   --project=PROJECT   without it, gcloud's own
#   --create=TYPE --version=VERSION   creates the slice first, as v5litepod-16
#                       with v2-alpha-tpuv5-lite; --spot: of spot machines
#   --repository=URL --commit=COMMIT  what the hosts clone; without it, they get
#                       the commit that is checked out here
#   --logs=FOLDER       a file for each host; build/tpu/SLICE without it
#   --delete            deletes the slice at the end, however the command ended;
#                       not if something else turns out to run there
#   --follow            no new command: the logs of the one that runs, to its end
#   --stop              no new command: ends the one that runs
#   --dry-run           prints the commands and runs none
# For several hosts, gcloud wants its key in the agent first:
#   ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PLAIN='^[A-Za-z0-9_./:=@%+,-]+$' # words that a shell reads as they are

fail() {
  echo "error: $*" >&2
  exit 2
}

quoted() { # the words as a shell reads them back
  local word line=''
  for word in "$@"; do
    if [[ ! $word =~ $PLAIN ]]; then
      word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    fi
    line+=" $word"
  done
  printf '%s' "${line:1}"
}

say() {
  quoted "$@"
  echo
}

do_() {
  say "$@"
  $dry || "$@"
}

tpu() { # VERB arguments: gcloud's command for TPU slices
  local verb=$1
  shift
  do_ gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone" \
    ${project:+--project="$project"}
}

on_hosts() { # all, or a host's number; the command; arguments of gcloud
  local worker=$1 command=$2
  shift 2
  # Signs of life: a connection that says nothing is cut after ten minutes.
  tpu ssh "$name" --worker="$worker" --ssh-flag=-oServerAliveInterval=30 \
    --command="$command" "$@"
}

in_project() { # the command of a host that is in its checkout
  echo "cd tda_jax && scripts/tpu_host.sh $(quoted "$@")"
}

name='' zone='' project='' workdir='' create='' version='' spot='' repository=''
commit='' logs='' dry=false delete=false action=run
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --create=*) create=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --spot) spot=--spot ;;
    --repository=*) repository=${1#*=} ;;
    --commit=*) commit=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --delete) delete=true ;;
    --follow) action=follow ;;
    --stop) action=stop ;;
    --dry-run) dry=true ;;
    --help | -h)
      sed -n '2,30s/^# //p' "$0"
      exit
      ;;
    --)
      shift
      break
      ;;
    *) fail "$1 is no option of $0: see $0 --help" ;;
  esac
  shift
done

check() {
  local word
  [ -n "$name" ] || fail '--name is missing: give the name of the TPU slice'
  [ -n "$zone" ] || fail '--zone is missing: give the zone of the TPU slice'
  [ $action = run ] || {
    [ $# = 0 ] || fail "--$action takes no command: leave out what follows --"
    return 0
  }
  [ $# -gt 0 ] || fail 'the command is missing: give it after --, as' \
    'experiments.astra --config=configs/astra/digits.py'
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]] || fail "$1 is no module: begin the" \
    'command with one, as experiments.astra'
  for word in "$@"; do
    [[ $word != --workdir* ]] || fail "$word is in the command: give --workdir" \
      'before --, so that all hosts have it'
  done
  case $workdir in
    '') fail '--workdir is missing: give gs://BUCKET/FOLDER, or a folder that' \
      'all hosts share' ;;
    gs://[a-z0-9]* | /*) ;;
    *) fail "--workdir=$workdir is no folder that hosts can share: give" \
      'gs://BUCKET/FOLDER, or the whole path of a folder that they share' ;;
  esac
  [ -z "$create" ] || [ -n "$version" ] || fail '--version is missing: with' \
    '--create, give the version of its software, as v2-alpha-tpuv5-lite'
  [ -n "$create" ] || [ -z "$version$spot" ] || fail '--version and --spot are' \
    'of --create: give that too, or leave them out'
  [ "${repository:+1}" = "${commit:+1}" ] || fail '--repository and --commit' \
    'go together: give both, or neither for the commit that is here'
  $dry || [ -n "$repository" ] ||
    [ -z "$(git status --porcelain --untracked-files=no)" ] ||
    fail 'there are changes that are not committed: commit them, since the' \
      'hosts get the commit and every result names it'
}
check "$@"
logs=${logs:-build/tpu/$name}

interrupted=false ours=false # whether the slice is this command's to delete
trap 'interrupted=true' INT
finish() { # the slice costs until it is deleted, whatever happened
  local status=$?
  if $interrupted; then
    echo "interrupted: what runs on the hosts goes on (--follow, --stop)" >&2
  elif $delete && $ours; then
    tpu delete "$name" --quiet
  fi
  exit "$status"
}

prepare() {
  local bundle=build/tpu/tda_jax.bundle source=../tda_jax.bundle
  if [ -n "$create" ]; then
    tpu create "$name" --accelerator-type="$create" --version="$version" $spot
    ours=true
  fi
  if [ -n "$repository" ]; then
    source=$repository
  else
    commit=HEAD
    do_ mkdir -p build/tpu
    do_ git bundle create --quiet "$bundle" HEAD
    tpu scp "$bundle" "$name:tda_jax.bundle" --worker=all
  fi
  on_hosts all "if [ -e tda_jax/scripts/tpu_host.sh ]; then \
tda_jax/scripts/tpu_host.sh idle; fi && git init -q tda_jax && cd tda_jax && \
git fetch -q $(quoted "$source" "$commit") && git checkout -q -f FETCH_HEAD && \
scripts/tpu_host.sh build"
}

share() { # makes sure that the workdir is one folder
  local rest token
  if [[ $workdir == gs://* ]]; then
    rest=${workdir#gs://}
    workdir=/mnt/${rest%/}
    echo "# gs://${rest%%/*} is mounted as /mnt/${rest%%/*} on all hosts"
    on_hosts all "$(in_project bucket "${rest%%/*}")"
  fi
  token=$(git rev-parse --short HEAD)-$$
  on_hosts 0 "$(in_project mark "$workdir" "$token")"
  on_hosts all "$(in_project sees "$workdir" "$token")"
}

follow() { # the command of the hosts whose output is the logs
  local status=0
  do_ mkdir -p "$logs"
  ours=true
  echo "# the output of host N goes to $logs/N.log"
  on_hosts all "$1" --output-directory="$logs" || status=$?
  $dry || for log in "$logs"/*.log; do
    echo "== $log"
    tail -n 3 "$log" | cut -c1-400
  done
  return "$status"
}

trap finish EXIT
case $action in
  run)
    prepare
    share
    follow "$(in_project run "$@" --workdir="$workdir")"
    ;;
  follow) follow "$(in_project follow)" ;;
  stop)
    on_hosts all "$(in_project stop)"
    ours=true
    ;;
esac
