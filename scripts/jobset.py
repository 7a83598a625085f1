"""A JobSet that runs an experiment on all hosts of a TPU slice of GKE.

  python -m scripts.jobset --name=digits --workdir=gs://BUCKET/digits \\
    --accelerator=tpu-v5-lite-podslice --topology=4x4 --chips=4 \\
    --repository=URL --commit=COMMIT \\
    -- experiments.astra --config=configs/astra/digits.py | kubectl apply -f -

fills in `scripts/jobset.yaml` and prints it. The bucket is mounted as /mnt/BUCKET,
so that `--config.data.path=/mnt/BUCKET/data` is data in it. Without --repository
and --commit, the image must have the project in /tda_jax.
"""

import argparse
import json
import math
import pathlib
import re
import sys

TEMPLATE = pathlib.Path(__file__).with_name('jobset.yaml')
IMAGE = 'python:3.12'  # with git and make


def main() -> None:
  options, command = _read(sys.argv[1:])
  try:
    print(jobset(command, **options), end='')
  except ValueError as error:
    sys.exit(f'error: {error}')


def jobset(
  command: list[str],
  name: str,
  workdir: str,
  accelerator: str,
  topology: str,
  chips: int,
  repository: str = '',
  commit: str = '',
  image: str = IMAGE,
  account: str = 'default',
  restarts: int = 20,
  spot: bool = False,
) -> str:
  """The manifest: the template with every value as JSON, which YAML reads.

  Args:
    command: module and flags, without --workdir.
    name: of the JobSet; lower-case letters, digits and hyphens.
    workdir: gs://BUCKET/FOLDER.
    accelerator, topology: labels of the nodes, as GKE names them.
    chips: of one host.
    account: Kubernetes' service account.
    restarts: how often all hosts are made anew.

  Raises:
    ValueError: a value that Kubernetes or the hosts would refuse.
  """
  _check(command, name, topology, repository, commit)
  found = re.fullmatch(r'gs://([a-z0-9][a-z0-9._-]+)((?:/.*)?)', workdir)
  if not found:
    raise ValueError(
      f'--workdir={workdir} is no bucket: give gs://BUCKET/FOLDER'
    )
  folder = f'/mnt/{found[1]}'
  nodes = {
    'cloud.google.com/gke-tpu-accelerator': accelerator,
    'cloud.google.com/gke-tpu-topology': topology,
  } | ({'cloud.google.com/gke-spot': 'true'} if spot else {})
  words = [*command, f'--workdir={folder}{found[2].rstrip("/")}']
  values = {
    'account': account,
    'bucket': found[1],
    'chips': chips,
    # Kubernetes reads $(NAME) in arguments, and $$ as $.
    'command': [word.replace('$', '$$') for word in words],
    'commit': commit,
    'folder': folder,
    'hosts': _hosts(topology, chips),
    'image': image,
    'name': name,
    'nodes': nodes,
    'repository': repository,
    'restarts': restarts,
  }
  return re.sub(
    r'\{\{(\w+)\}\}', lambda m: json.dumps(values[m[1]]), TEMPLATE.read_text()
  )


def _check(command, name, topology, repository, commit) -> None:
  if not command or not re.fullmatch(r'[A-Za-z_][\w.]*', command[0]):
    raise ValueError(
      'the command begins with no module: give it after --, as'
      ' experiments.astra --config=configs/astra/digits.py'
    )
  given = [word for word in command if word.startswith('--workdir')]
  if given:
    raise ValueError(f'{given[0]} is in the command: give --workdir before --')
  if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', name):
    raise ValueError(
      f'--name={name} names no JobSet: give at most 40 lower-case letters,'
      ' digits and hyphens, a letter first'
    )
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', topology):
    raise ValueError(f'--topology={topology} is none: give one as 4x4 or 2x2x2')
  if bool(repository) != bool(commit):
    raise ValueError(
      '--repository and --commit go together: give both, or neither for an'
      ' image that has the project in /tda_jax'
    )


def _hosts(topology: str, chips: int) -> int:
  """How many hosts a slice has."""
  count = math.prod(map(int, topology.split('x')))
  if chips < 1 or count % chips:
    raise ValueError(
      f'--chips={chips} does not divide the {count} chips of --topology='
      f'{topology}: give the chips of one host, mostly 4'
    )
  return count // chips


def _read(words: list[str]) -> tuple[dict, list[str]]:
  """Options of `jobset`, and the command after --."""
  split = words.index('--') if '--' in words else len(words)
  parser = argparse.ArgumentParser(
    'python -m scripts.jobset',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name in ('name', 'workdir', 'accelerator', 'topology'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--chips', type=int, required=True, help='of one host')
  parser.add_argument('--repository', default='')
  parser.add_argument('--commit', default='')
  parser.add_argument('--image', default=IMAGE)
  parser.add_argument(
    '--account', default='default', help="Kubernetes' service account"
  )
  parser.add_argument(
    '--restarts', type=int, default=20, help='of all hosts, at most'
  )
  parser.add_argument('--spot', action='store_true', help='spot machines')
  return vars(parser.parse_args(words[:split])), words[split + 1 :]


if __name__ == '__main__':
  main()
