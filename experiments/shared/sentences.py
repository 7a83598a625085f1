"""One line for whatever ends a command."""

import difflib
import pathlib
import re
import traceback

from absl import flags
from ml_collections.config_flags import config_flags

import tda_jax
from experiments.shared import arguments

ROOT = pathlib.Path(__file__).parents[2]
OURS = (  # whose ValueErrors are sentences about what was given
  pathlib.Path(tda_jax.__file__).parent,
  ROOT / 'experiments',
  ROOT / 'configs',
)
FAULT = (
  'this is a fault of the library: run again with --traceback and report it'
)

REWORDED = {  # what absl says -> what to do
  r'flag (\S+?)=None: Flag .* must have a value': r'\1 is missing: give \1=...',
  r'flag (\S+?)=(.*): invalid literal for int': r"\1='\2': give a whole number",
  r'flag (\S+?)=(.*): could not convert': r"\1='\2': give a number",
  r"flag (\S+?)=(.*): \('Non-boolean": r"\1='\2': give True or False",
  r"Unknown command line flag '(\S+?)'": r'there is no flag --\1',
}


def of_error(error: Exception) -> tuple[str, int]:
  """(line, exit status): 1 for what was given, 2 for a fault of the library.

  What was given is refused by a ValueError that this package raises, and by an
  OSError of the disk; anything else was not foreseen.
  """
  text = one_line(error)
  frames = traceback.extract_tb(error.__traceback__)
  file = pathlib.Path(frames[-1].filename) if frames else pathlib.Path()
  ours = any(file.is_relative_to(folder) for folder in OURS)
  line = frames[-1].line if frames else ''
  meant = ours and (not line or line.startswith('raise'))  # not by int('x')
  if isinstance(error, OSError) or (meant and isinstance(error, ValueError)):
    return text, 1
  return f'{type(error).__name__}: {text}; {FAULT}', 2


def one_line(error: Exception) -> str:
  """The message without its line breaks."""
  return ' '.join(str(error).split())


def check_config_file(argv: list[str]) -> None:
  """Raises ValueError unless --config names a file that can be a config."""
  given = arguments.given(argv, 'config')
  if given is None:
    return
  path = given.split(':', 1)[0]
  file = pathlib.Path(path)
  hint = 'give a file as configs/astra/digits.py'
  if not path:
    raise ValueError(f'--config is empty: {hint}')
  if file.is_dir():
    raise ValueError(f'--config={path} is a folder: {hint}')
  if not file.is_file():
    raise ValueError(f'--config={path}: there is no such file{_near(file)}')
  if file.suffix != '.py' or 'get_config' not in file.read_text(
    'utf8', 'ignore'
  ):
    raise ValueError(
      f'--config={path} is no config file, which defines get_config: {hint}'
    )


def check_config(config) -> None:
  """Raises ValueError for what get_config gave that is no config."""
  hint = 'let get_config return a ConfigDict, as those of configs/ do'
  if not hasattr(config, 'to_dict') or not hasattr(config, 'items'):
    raise ValueError(f'the config is a {type(config).__name__}: {hint}')
  needed = ('experiment', 'setting', 'task', 'data', 'training', 'methods')
  absent = [field for field in needed if field not in config]
  if absent:
    raise ValueError(f'the config has no {", ".join(absent)}: {hint}')


def of_flags(error: Exception, argv: list[str]) -> str:
  """The line for a flag that cannot be parsed, or a config that raises.

  A config file's own error comes with its traceback in the message; the last
  line of it says what is wrong.
  """
  text = str(error)
  if 'Traceback (most recent call last)' in text:
    last = text.strip().splitlines()[-1]
    return re.sub(r'^(\w+\.)*\w*(Error|Exception): ', '', last)
  if isinstance(error, (AttributeError, KeyError, TypeError)):
    if missing := _unknown_field(argv):
      return missing
  text = one_line(error)
  for pattern, sentence in REWORDED.items():
    if found := re.match(pattern, text):
      return found.expand(sentence)
  known = isinstance(error, (flags.Error, ValueError))
  name = type(error).__name__
  return text if known else f'{name}: {text} (--traceback shows where)'


def _unknown_field(argv: list[str]) -> str | None:
  """The sentence for a field that the config does not have."""
  parser = config_flags.ConfigFileFlagParser('config')
  try:
    config = parser.parse(arguments.given(argv, 'config'))
  except Exception:  # the file's own, whose message stays as it is
    return None
  return arguments.unknown_override(config, argv)


def _near(file: pathlib.Path) -> str:
  folder = file.parent
  names = [f.name for f in folder.glob('*.py')] if folder.is_dir() else []
  near = difflib.get_close_matches(file.name, names, 1)
  return f': did you mean {folder / near[0]}?' if near else ''
