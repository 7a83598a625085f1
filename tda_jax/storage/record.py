"""Records of stages and experiments: run.json, results.json."""

import datetime
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

import jax
import numpy as np

from tda_jax import parallel
from tda_jax.storage import files

ROW = ('method', 'metric', 'value', 'low', 'high', 'n', 'seconds', 'peak_mb')
DIGESTS = {  # fields that hold digests, which say nothing to people
  'rows_digest': 'the training rows',
  'train': 'the training rows',
  'documents': 'the documents',
  'queries': 'the queries',
  'queries_digest': 'the queries',
  'models': 'the models',
  'checkpoints': 'the checkpoints',
}
CLAIM = ('claim', 'source', 'expected', 'observed', 'holds')


def begin(
  path: str | os.PathLike, inputs: dict, holder: str | os.PathLike | None = None
) -> bool:
  """Opens the folder `path` of a stage with these inputs.

  A new folder gets run.json, with the inputs and the environment.

  Args:
    holder: the folder to delete where the inputs are others, with all that was
      made from them; None: `path`.

  Returns:
    Whether the stage is complete; if not, it starts or continues.

  Raises:
    ValueError: the folder belongs to a stage with other inputs (the sentence has
      the fields that differ, with both values), or holds other files.
  """
  files.check_local(path)
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  file = path / 'run.json'
  if file.exists():
    recorded = read_json(file, f'the folder {path}').get('inputs')
    if recorded is None:
      raise ValueError(
        f'{file} is damaged (it has no inputs): delete the folder {path} and run'
        ' the same command again'
      )
    check_same(recorded, plain(inputs), f'the folder {holder or path}')
    return (path / 'complete').exists()
  foreign = sorted(p.name for p in path.iterdir() if p.name[0] != '.')
  if foreign and parallel.owner():
    raise ValueError(
      f'the folder {path} holds {foreign[0]!r} but no run.json: give another'
      ' folder, or delete that one'
    )
  write_json(file, {'inputs': inputs, 'environment': environment()})
  return False


def complete(path: str | os.PathLike) -> None:
  """Marks the stage folder `path` complete; the last thing a stage does."""
  file = pathlib.Path(path) / 'complete'
  if not file.exists():
    write_json(file, {'time': _now()})


def check_same(recorded: dict, current: dict, name: str) -> None:
  """Raises ValueError if two records differ, naming fields and both values."""
  differ = differences(recorded, current)
  if differ:
    raise ValueError(
      f'{name} is of another run ({differ}): give another folder,'
      ' or delete that one'
    )


def differences(recorded: dict, current: dict) -> str:
  """The fields in which two records differ, with both values; '' if none."""
  recorded, current = _flat(recorded), _flat(current)
  return '; '.join(
    _difference(field, recorded.get(field), current.get(field))
    for field in sorted({*recorded, *current})
    if recorded.get(field) != current.get(field)
  )


def join_attributes(
  identity: dict, attributes: dict | None, free: tuple[str, ...] = ()
) -> dict:
  """The fields of a record: its identity, and further ones of the caller.

  Args:
    free: fields of `identity` that the caller may replace.

  Raises:
    ValueError: the caller names another field of the identity.
  """
  taken = [
    name for name in attributes or {} if name in identity and name not in free
  ]
  if taken:
    raise ValueError(
      f'attributes name {", ".join(map(repr, taken))}, by which a result is'
      ' identified: choose other names'
    )
  return {**identity, **(attributes or {})}


def _difference(field, there, now) -> str:
  if field.startswith('functions.') or field == 'measure':
    return f'{field.split(".")[-1]} is another function now'
  if field in DIGESTS:
    return f'{DIGESTS[field]} are others now'
  return f'{field} is {_short(there)} there and {_short(now)} now'


def safe_name(name: str, what: str) -> str:
  """`name` itself, if a folder of that name is inside its parent.

  Args:
    what: the kind of thing that has the name, for example 'the setting'.

  Raises:
    ValueError: the name would lead to another place.
  """
  if name in ('', '.', '..') or not set(name).isdisjoint('/\\\0'):
    raise ValueError(
      f'{what} is called {name!r}, which names no folder of its own: give a name'
      ' without / and \\'
    )
  return name


def write_json(path: str | os.PathLike, content: dict) -> None:
  """Writes `content` with its checksum, whole or not at all.

  NaN and infinity become null.
  """
  files.write(path, _signed(content))


def write_npz(path: str | os.PathLike, arrays: dict) -> None:
  """Writes named arrays as NumPy's .npz, whole or not at all."""
  data = io.BytesIO()
  np.savez(data, **arrays)
  files.write(path, data.getvalue())


def read_json(path: str | os.PathLike, hint: str = 'that file') -> dict:
  """The content of a JSON file, after its checksum (if it has one) is verified.

  Args:
    hint: what to delete when it is damaged, so that the same command makes it
      again.

  Raises:
    ValueError: it is absent, half-written or changed.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise ValueError(
      f'there is no {path.name} in {path.parent}: run that stage first'
    ) from None
  except (json.JSONDecodeError, UnicodeDecodeError):
    content = None
  if isinstance(content, dict):
    checksum = content.pop('checksum', None)
    if checksum in (None, _checksum(content)):
      return content
  raise ValueError(
    f'{path} is damaged (half-written, or changed since): delete {hint} and run'
    ' the same command again'
  )


def _signed(content) -> bytes:
  content = plain(content)
  content = {**content, 'checksum': _checksum(content)}
  return (json.dumps(content, indent=2, allow_nan=False) + '\n').encode()


def _checksum(content) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def environment() -> dict:
  """Command line, commit, versions, devices and time."""
  return {
    'command': _command(),
    **_commit(),
    'python': platform.python_version(),
    **{name: metadata.version(name) for name in ('jax', 'flax', 'numpy')},
    'devices': [str(device.device_kind) for device in jax.devices()],
    'cores': os.cpu_count(),
    'time': _now(),
  }


def signature(facts: dict) -> dict:
  """The facts of a run in a committed results.json, from `environment`."""
  # The folder of the data on one machine means nothing on others.
  command = re.sub(r'(data\.path=)\S+', r'\1FOLDER', ' '.join(facts['command']))
  return {
    'command': command,
    'commit': f'{facts["commit"]}{" (edited)" if facts["dirty"] else ""}',
    'hardware': f'{facts["cores"]} cores, {" ".join(facts["devices"])}',
    'seconds': facts.get('seconds'),
    'date': facts['time'],
    'versions': {k: facts[k] for k in ('python', 'jax', 'flax', 'numpy')},
  }


def results(
  path: str | os.PathLike,
  experiment: str,
  setting: str,
  rows: list[dict],
  claims: list[dict],
) -> None:
  """Writes results.json.

  Args:
    path: the file.
    rows: dicts with `method`, `metric`, `value` and any of `low`, `high`, `n`,
      `seconds`, `peak_mb`; what is left out becomes null.
    claims: dicts with `claim`, `source`, `expected`, `observed`, `holds` and, if
      it is known, `verdict`.

  Raises:
    ValueError: a field is missing or unknown.
  """
  _fields(rows, 'result', ROW[:3], ROW)
  _fields(claims, 'claim', CLAIM, (*CLAIM, 'verdict'))
  content = {
    'experiment': experiment,
    'setting': setting,
    'rows': [{field: row.get(field) for field in ROW} for row in rows],
    'claims': claims,
  }
  files.show(path, _signed(content))


def plain(value: Any) -> Any:
  """Converts to JSON types: arrays to lists, NaN and infinity to None."""
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, (np.ndarray, jax.Array)):
    return plain(np.asarray(value).tolist())
  if isinstance(value, (list, tuple)):
    return [plain(v) for v in value]
  if isinstance(value, np.generic):
    return plain(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  return value


def _fields(rows, name, needed, known):
  for i, row in enumerate(rows):
    missing = [f for f in needed if f not in row]
    unknown = [f for f in row if f not in known]
    if missing or unknown:
      raise ValueError(
        f'{name} {i} lacks {missing} and has unknown fields {unknown}: its'
        f' fields are {list(known)}'
      )


def _flat(tree, prefix=''):
  """Nested dicts as {'a.b': value}."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict) and value:
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def _short(value):
  text = json.dumps(value)
  return text if len(text) < 80 else text[:76] + ' ...'


def _now():
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def _command():
  """The command line as it was typed, python -m MODULE ..."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  start = ['-m', spec.name.removesuffix('.__main__')] if spec else sys.argv[:1]
  return ['python', *start, *sys.argv[1:]]


def _commit():
  """Commit of the checkout this package runs from, and whether it is edited."""

  def git(*words):
    return subprocess.run(
      ['git', *words],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=20,
    ).stdout.strip()

  try:
    edited = git('status', '--porcelain', '--untracked-files=no')
    return {'commit': git('rev-parse', 'HEAD'), 'dirty': bool(edited)}
  except (OSError, subprocess.SubprocessError):
    return {'commit': None, 'dirty': None}
