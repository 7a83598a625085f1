"""The same command on every host of a TPU slice: what the scripts would run.

There is no cloud here: a `gcloud` of the test writes down its words, and does on
folders of this machine what the real one does on hosts.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml

from scripts import jobset

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ('tpu.sh', 'tpu_host.sh')
SLICE = ('--name=pod', '--zone=us-west4-a')
HARD = '--config.note=it\'s a "b" $HOME $(COMMIT) $$ `id` \\ * & #;'
COMMAND = ('experiments.astra', '--config=configs/astra/digits.py', HARD)

GCLOUD = f"""#!{sys.executable}
import json, os, shutil, subprocess, sys
words, hosts = sys.argv[1:], os.environ['HOSTS']
with open(os.environ['CALLS'], 'a') as file:
  file.write(json.dumps(words) + '\\n')
verb = words[3]
options = dict(w[2:].partition('=')[::2] for w in words[4:] if w[:2] == '--')
worker = options.get('worker')
folders = [f'{{hosts}}/{{n}}' for n in ('01' if worker == 'all' else worker or '')]
if verb == 'scp':
  for folder in folders:
    shutil.copy(words[4], folder + '/' + words[5].split(':')[1])
running = []
for number, folder in enumerate(folders if verb == 'ssh' else ()):
  out = None
  if 'output-directory' in options:
    out = open(f'{{options["output-directory"]}}/{{number}}.log', 'w')
  # A login shell of the host gets the command as one text.
  command = ['bash', '-c', options['command']]
  running.append(subprocess.Popen(command, cwd=folder, stdout=out, stderr=out))
sys.exit(max([process.wait() for process in running], default=0))
"""
PYTHON = """#!/usr/bin/env bash
echo "this is $(basename "$(dirname "$PWD")")"
printf '%s\\0' "$TDA_DISTRIBUTED" "$@" > ../words
sleep "${SLEEP:-0}"
exit "${STATUS:-0}"
"""
MAKEFILE = 'tpu:\n\tmkdir -p .venv/bin\n\tcp python .venv/bin/python\n'


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


class Cloud:
  """A project of two scripts, a gcloud, and the folders of two hosts."""

  def __init__(self, folder):
    self.root, self.hosts = folder / 'project', folder / 'hosts'
    self.calls_file = folder / 'calls'
    for host in '01':
      (self.hosts / host).mkdir(parents=True)
    for name in SCRIPTS:
      (self.root / 'scripts').mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / 'scripts' / name, self.root / 'scripts' / name)
    executable(self.root / 'python', PYTHON)
    (self.root / 'Makefile').write_text(MAKEFILE)
    (self.root / '.gitignore').write_text('build/\n.venv/\n')
    executable(folder / 'bin' / 'gcloud', GCLOUD)
    (folder / 'bin' / 'python3.11').symlink_to(sys.executable)
    self.env = os.environ | {
      'PATH': f'{folder / "bin"}:{os.environ["PATH"]}',
      'HOSTS': str(self.hosts),
      'CALLS': str(self.calls_file),
    }
    who = ('-c', 'user.name=a', '-c', 'user.email=a@example.org')
    for words in (['init', '-q'], ['add', '.'], [*who, 'commit', '-qm', 'a']):
      subprocess.run(['git', *words], cwd=self.root, check=True)

  def run(self, *words, script='scripts/tpu.sh', cwd=None, **env):
    return subprocess.run(
      [script, *map(str, words)], cwd=cwd or self.root, env=self.env | env,
      capture_output=True, text=True, timeout=60,
    )  # fmt: skip

  def calls(self):
    """Verb and words of each call of gcloud."""
    if not self.calls_file.exists():
      return []
    calls = map(json.loads, self.calls_file.read_text().splitlines())
    return [(words[3], words[4:]) for words in calls]

  def words(self, host):
    """TDA_DISTRIBUTED and the arguments of the host's Python."""
    return (self.hosts / host / 'words').read_text().split('\0')[:-1]


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_are_bash(name):
  script = ROOT / 'scripts' / name
  subprocess.run(['bash', '-n', script], check=True)
  assert os.access(script, os.X_OK)


def test_dry_run_prints_the_commands_and_runs_none(cloud):
  ran = cloud.run(
    *SLICE, '--workdir=gs://bucket/digits', '--create=v5litepod-16',
    '--version=v2-alpha-tpuv5-lite', '--delete', '--dry-run', '--', *COMMAND[:2]
  )  # fmt: skip
  assert ran.returncode == 0 and not cloud.calls(), ran.stderr
  assert (
    not list(cloud.hosts.rglob('*/*')) and not (cloud.root / 'build').exists()
  )
  on = 'gcloud compute tpus tpu-vm'
  ssh = f'{on} ssh pod --worker=%s --ssh-flag=-oServerAliveInterval=30'
  zone = '--zone=us-west4-a'
  to_all, to_first = ssh % 'all', ssh % '0'
  host = 'cd tda_jax && scripts/tpu_host.sh'
  said = re.sub(r'[0-9a-f]{7,}-\d+', 'TOKEN', ran.stdout)
  assert said.splitlines() == [
    f'{on} create pod --accelerator-type=v5litepod-16'
    f' --version=v2-alpha-tpuv5-lite {zone}',
    'mkdir -p build/tpu',
    'git bundle create --quiet build/tpu/tda_jax.bundle HEAD',
    f'{on} scp build/tpu/tda_jax.bundle pod:tda_jax.bundle --worker=all {zone}',
    f"{to_all} '--command=if [ -e tda_jax/scripts/tpu_host.sh ]; then"
    ' tda_jax/scripts/tpu_host.sh idle; fi && git init -q tda_jax && cd tda_jax'
    ' && git fetch -q ../tda_jax.bundle HEAD && git checkout -q -f FETCH_HEAD &&'
    f" scripts/tpu_host.sh build' {zone}",
    '# gs://bucket is mounted as /mnt/bucket on all hosts',
    f"{to_all} '--command={host} bucket bucket' {zone}",
    f"{to_first} '--command={host} mark /mnt/bucket/digits TOKEN' {zone}",
    f"{to_all} '--command={host} sees /mnt/bucket/digits TOKEN' {zone}",
    'mkdir -p build/tpu/pod',
    '# the output of host N goes to build/tpu/pod/N.log',
    f"{to_all} '--command={host} run experiments.astra"
    " --config=configs/astra/digits.py --workdir=/mnt/bucket/digits'"
    f' --output-directory=build/tpu/pod {zone}',
    f'{on} delete pod --quiet {zone}',
  ]


def test_what_is_printed_can_be_pasted(cloud, tmp_path):
  """Through the user's shell, gcloud and the host's shell to Python."""
  workdir = tmp_path / 'the workdir'
  arguments = *SLICE, f'--workdir={workdir}', '--', *COMMAND
  said = cloud.run('--dry-run', *arguments)
  assert said.returncode == 0, said.stderr
  pasted = cloud.run('-euc', said.stdout, script='bash')
  assert pasted.returncode == 0, pasted.stderr
  want = ['1', '-u', '-m', *COMMAND, f'--workdir={workdir}']
  assert cloud.words('0') == want and cloud.words('1') == want
  by_hand = cloud.calls()
  cloud.calls_file.unlink()
  assert cloud.run(*arguments).returncode == 0
  same = [re.sub(r'-\d+\b', '', str(call)) for call in by_hand]
  assert [re.sub(r'-\d+\b', '', str(call)) for call in cloud.calls()] == same


def test_a_command_runs_on_all_hosts(cloud, tmp_path):
  ran = cloud.run(*SLICE, f'--workdir={tmp_path}/w', '--delete', '--', *COMMAND)
  assert ran.returncode == 0, ran.stderr
  head = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=cloud.root)
  for host in '01':
    there = cloud.hosts / host / 'tda_jax'
    assert head == subprocess.check_output(
      ['git', 'rev-parse', 'HEAD'], cwd=there
    )
    assert cloud.words(host)[3:] == [*COMMAND, f'--workdir={tmp_path}/w']
    log = cloud.root / 'build' / 'tpu' / 'pod' / f'{host}.log'
    assert log.read_text() == f'this is {host}\n'
  assert f'this is {host}' in ran.stdout
  assert cloud.calls()[-1] == ('delete', ['pod', '--quiet', SLICE[1]])
  # The same command again; one that fails says so, and the slice is kept.
  again = cloud.run(
    *SLICE, f'--workdir={tmp_path}/w', '--', *COMMAND, STATUS='3'
  )
  assert again.returncode == 3 and cloud.calls()[-1][0] == 'ssh'


def test_hosts_clone_a_commit_if_asked(cloud, tmp_path):
  source = (f'--repository={cloud.root}', '--commit=HEAD')
  (cloud.root / 'python').write_text('changed and not committed')
  words = *SLICE, f'--workdir={tmp_path}/w', '--', *COMMAND
  refused = cloud.run(*words)
  assert refused.returncode == 2 and 'not committed' in refused.stderr
  assert cloud.run(*source, *words).returncode == 0
  assert cloud.words('1')[3:5] == list(COMMAND[:2])
  assert 'scp' not in dict(cloud.calls())


def test_what_runs_is_followed_or_stopped_and_not_disturbed(cloud, tmp_path):
  words = *SLICE, f'--workdir={tmp_path}/w', '--', *COMMAND
  first = subprocess.Popen(
    ['scripts/tpu.sh', *words], cwd=cloud.root, env=cloud.env | {'SLEEP': '50'},
    stdout=subprocess.DEVNULL,
  )  # fmt: skip
  started = [cloud.hosts / host / 'words' for host in '01']
  for _ in range(300):
    if all(file.exists() for file in started):
      break
    time.sleep(0.1)
  # As where gcloud lost its connection and tries again.
  there = cloud.hosts / '0' / 'tda_jax'
  run = 'scripts/tpu_host.sh', 'run', *COMMAND, f'--workdir={tmp_path}/w'
  second = subprocess.Popen(
    run, cwd=there, env=cloud.env, stdout=subprocess.PIPE
  )
  assert second.stdout.readline() == b'this is 0\n'
  other = cloud.run('--delete', *words, '--more')
  assert other.returncode == 1 and 'a command runs here' in other.stderr
  assert 'delete' not in dict(cloud.calls())
  other = cloud.run('run', 'other.module', script=run[0], cwd=there)
  assert other.returncode == 1 and 'experiments.astra' in other.stderr
  assert first.poll() is None and second.poll() is None
  assert cloud.run(*SLICE, '--stop', '--delete').returncode == 0
  second.communicate(timeout=30)
  assert first.wait(30) == 1 and second.returncode == 1
  assert cloud.calls()[-1][0] == 'delete'
  ended = cloud.run(*SLICE, '--follow')
  assert ended.returncode == 1
  assert 'run the same command again, which continues' in ended.stdout


def test_a_folder_that_is_not_shared_is_refused(cloud, tmp_path):
  script = ROOT / 'scripts' / 'tpu_host.sh'
  assert not cloud.run(
    'mark', tmp_path / 'a', 'token', script=script
  ).returncode
  assert not cloud.run(
    'sees', tmp_path / 'a', 'token', script=script
  ).returncode
  for folder, token in (('a', 'other'), ('b', 'token')):
    ran = cloud.run('sees', tmp_path / folder, token, script=script)
    assert ran.returncode == 1 and 'one that all hosts share' in ran.stderr


def test_a_bucket_is_mounted_once(cloud, tmp_path):
  for name, text in (
    ('mountpoint', '[ -e "$MOUNTED" ]'),
    ('sudo', 'echo "sudo $*"'),
    ('gcsfuse', 'echo "gcsfuse $*"; touch "$MOUNTED"'),
  ):
    executable(tmp_path / 'bin' / name, f'#!/bin/bash\n{text}\n')
  given = {
    'script': 'scripts/tpu_host.sh',
    'MOUNTED': str(tmp_path / 'mounted'),
  }
  said = cloud.run('bucket', 'some-bucket', **given).stdout.splitlines()
  assert said[0] == 'sudo mkdir -p /mnt/some-bucket'
  assert said[-1].startswith('gcsfuse --implicit-dirs --rename-dir-limit=')
  assert said[-1].endswith('-ttl-secs=0 some-bucket /mnt/some-bucket')
  assert cloud.run('bucket', 'some-bucket', **given).stdout == ''


NO = ('--', *COMMAND)


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    ([], '--name is missing'),
    (['--name=pod'], '--zone is missing'),
    ([*SLICE, '--workdir=/w'], 'the command is missing'),
    ([*SLICE, *NO], '--workdir is missing'),
    (
      [*SLICE, '--workdir=w', *NO],
      '--workdir=w is no folder that hosts can share',
    ),
    ([*SLICE, '--workdir=/w', '--', '--config=a'], '--config=a is no module'),
    ([*SLICE, '--workdir=/w', *NO, '--workdir=/v'], 'give --workdir before --'),
    ([*SLICE, '--workdir=/w', '--create=v', *NO], '--version is missing'),
    ([*SLICE, '--workdir=/w', '--spot', *NO], 'are of --create'),
    ([*SLICE, '--workdir=/w', '--commit=a', *NO], 'go together'),
    ([*SLICE, '--follow', *NO], '--follow takes no command'),
    ([*SLICE, '--wokdir=/w', *NO], '--wokdir=/w is no option'),
  ],
)
def test_what_is_missing_is_said_in_a_sentence(words, sentence, cloud):
  ran = cloud.run('--dry-run', *words)
  assert ran.returncode == 2 and not ran.stdout and not cloud.calls()
  assert ran.stderr.startswith('error: ') and ran.stderr.count('\n') == 1
  assert sentence in ran.stderr


# --- GKE ----------------------------------------------------------------------

SCHEMA = json.loads((ROOT / 'tests' / 'jobset.schema.json').read_text())
GIVEN = {
  'name': 'digits',
  'workdir': 'gs://bucket/some/digits',
  'accelerator': 'tpu-v5-lite-podslice',
  'topology': '4x8',
  'chips': 4,
  'repository': 'https://example.org/tda_jax.git',
  'commit': 'abc',
}


def manifest(**changes):
  return yaml.safe_load(jobset.jobset([*COMMAND], **GIVEN | changes))


def faults(value):
  return [*jsonschema.Draft202012Validator(SCHEMA).iter_errors(value)]


def job_of(value):
  return value['spec']['replicatedJobs'][0]['template']['spec']


def test_the_jobset_is_one_that_kubernetes_takes():
  jsonschema.Draft202012Validator.check_schema(SCHEMA)
  for changes in ({}, {'spot': True, 'topology': '2x2x4', 'restarts': 3}):
    assert not faults(manifest(**changes))
  value = manifest()
  job = job_of(value)
  assert value['spec']['failurePolicy'] == {'maxRestarts': 20}
  assert job['completions'] == job['parallelism'] == 8
  assert job['completionMode'] == 'Indexed' and job['backoffLimit'] == 0
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'
  (host,) = pod['containers']
  assert {'name': 'TDA_DISTRIBUTED', 'value': '1'} in host['env']
  assert host['volumeMounts'][0]['mountPath'] == '/mnt/bucket'
  assert host['args'][-1] == '--workdir=/mnt/bucket/some/digits'
  options = pod['volumes'][0]['csi']['volumeAttributes']['mountOptions']
  assert ' ' not in options and 'metadata-cache:ttl-secs:0' in options


def fields(value, path=()):
  """Paths of all names, but of those that are the user's to choose."""
  free = ('annotations', 'labels', 'limits', 'nodeSelector', 'volumeAttributes')
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, item in items:
    if isinstance(value, dict):
      yield (*path, key)
    if isinstance(item, (dict, list)) and key not in free:
      yield from fields(item, (*path, key))


def test_a_misspelt_field_is_found():
  paths = [*fields(manifest())]
  assert len(paths) > 40
  for path in paths:
    value = inner = manifest()
    for key in path[:-1]:
      inner = inner[key]
    inner[path[-1] + 's'] = inner.pop(path[-1])
    assert faults(value), path
  value = manifest()
  job_of(value)['completions'] = 'eight'
  assert faults(value)


def test_the_container_runs_the_command(cloud, tmp_path):
  (host,) = job_of(manifest(repository=str(cloud.root), commit='HEAD'))[
    'template'
  ]['spec']['containers']
  names = {entry['name']: entry['value'] for entry in host['env']}
  # What Kubernetes makes of $$ and $(NAME).
  expand = lambda text: re.sub(
    r'\$(\$|\((\w+)\))',
    lambda m: '$' if m[1] == '$' else names.get(m[2], m[0]),
    text,
  )
  shell, flags, script, *rest = map(expand, [*host['command'], *host['args']])
  script = script.replace('/tda_jax', str(tmp_path / 'pod' / 'tda_jax'))
  ran = cloud.run(flags, script, *rest, script=shell, **names)
  assert ran.returncode == 0, ran.stderr
  said = (tmp_path / 'pod' / 'words').read_text().split('\0')[:-1]
  workdir = '--workdir=/mnt/bucket/some/digits'
  assert said == ['1', '-u', '-m', *COMMAND, workdir]


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'workdir': '/w'}, 'is no bucket'),
    ({'name': 'No'}, 'names no JobSet'),
    ({'topology': '4by4'}, '--topology=4by4 is none'),
    ({'chips': 5}, 'does not divide the 32 chips'),
    ({'commit': ''}, 'go together'),
  ],
)
def test_what_kubernetes_would_refuse_is_said(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    manifest(**changes)
