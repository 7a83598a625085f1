"""Which committed results are of older code than the present.

A result is stale if a file that its command imports, directly or through others,
has changed since the commit of its run. Imports are read off the files, of this
repository alone, and a text that is a module's name, alone or before ':function',
counts as one: what is started as `python -m`, and a config's task. What a setting
of an experiment could use counts, used or not. Of a change of comments, docstrings
and format alone nothing is said.
"""

import ast
import functools
import hashlib
import io
import json
import pathlib
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
COMMIT = re.compile(r'\b[0-9a-f]{40}\b')


class Result(NamedTuple):
  """A committed result, and the run that it is of.

  Attributes:
    name: of its file in results/, without .json.
    commands: the words of each, in the order in which they ran.
    commits: of the code that ran.
    edited: whether that code differed from the commit.
    seconds: that the run took.
  """

  name: str
  commands: list[list[str]]
  commits: list[str]
  edited: bool
  seconds: float


class Age(NamedTuple):
  """A result, and the files that have changed since; None: it is not known."""

  result: Result
  changed: list[str] | None

  @property
  def stale(self) -> bool:
    """Whether it is known to be of other code than the present."""
    return bool(self.changed) or (
      self.result.edited and self.changed is not None
    )


def ages(root: pathlib.Path = ROOT) -> list[Age]:
  """All committed results, those that take longest last."""
  every = sorted(results(root), key=lambda result: result.seconds)
  return [Age(result, changed(root, result)) for result in every]


def changed(root: pathlib.Path, result: Result) -> list[str] | None:
  """The files whose code is not that of every commit of a result.

  None where a commit is not in this clone, so that it is not known.
  """
  now = {
    path: (root / path).read_bytes() for path in closure(root, launched(result))
  }
  out = set()
  for commit in result.commits or [None]:
    blobs = commit and blobs_at(root, commit)
    if not blobs:
      return None
    differ = [p for p in now if blobs.get(p) != _blob(now[p])]
    then = texts(root, {blobs[p] for p in differ if p in blobs})
    out |= {
      path
      for path in differ
      if path not in blobs
      or code(then[blobs[path]]) != code(now[path].decode())
    }
  return sorted(out)


def results(root: pathlib.Path) -> Iterator[Result]:
  """The files of results/ that say which run they are of."""
  for path in sorted((root / 'results').glob('*.json')):
    run = json.loads(path.read_text()).get('run')
    if not run:
      continue
    command, commit = run['command'], str(run['commit'])
    text = shlex.join(command) if isinstance(command, list) else command
    yield Result(
      name=path.stem,
      commands=[shlex.split(one) for one in text.split(' && ')],
      commits=COMMIT.findall(commit),
      edited='(edited)' in commit,
      seconds=run['seconds'],
    )


def launched(result: Result) -> set[str]:
  """The files that the commands name: the module, and the config."""
  files = set()
  for words in result.commands:
    if '-m' not in words[:-1]:
      raise ValueError(
        f'results/{result.name}.json: its command starts no module, {words}: write'
        ' the command `python -m MODULE ...` that made it'
      )
    module = words[words.index('-m') + 1].replace('.', '/')
    launcher = module.startswith('experiments/') and module.count('/') == 1
    files |= {f'{module}.py', *([f'{module}/__main__.py'] * launcher)}
    configs = (w for w in words if w.startswith('--config='))
    files |= {w.removeprefix('--config=').partition(':')[0] for w in configs}
  return files


def closure(root: pathlib.Path, files: Iterable[str]) -> set[str]:
  """Those of the files that exist, and what they import of the repository."""
  seen, left = set(), [*files]
  while left:
    path = left.pop()
    if path in seen or not (root / path).is_file():
      continue
    seen.add(path)
    for name in imported((root / path).read_text()):
      parts = name.split('.')
      for i in range(1, len(parts) + 1):
        start = '/'.join(parts[:i])
        left += [f'{start}.py', f'{start}/__init__.py']
  return seen


@functools.cache
def imported(text: str) -> set[str]:
  """Dotted names that could be modules which a file imports or starts."""
  names = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      named = re.fullmatch(r'([a-z_]\w*(\.\w+)+)(:\w+)?', node.value)
      names |= {named[1]} if named else set()
  return names


@functools.cache
def code(text: str) -> str:
  """What a file computes: its tree without docstrings, comments and format."""
  tree = ast.parse(text)
  for node in ast.walk(tree):
    if isinstance(
      node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ) and ast.get_docstring(node, clean=False):
      del node.body[0]
  return ast.dump(tree)


def digest(root: pathlib.Path, result: Result) -> str:
  """Tells whether the code of a result is what it was."""
  files = sorted(closure(root, launched(result)))
  every = [(path, code((root / path).read_text())) for path in files]
  return hashlib.sha256(repr(every).encode()).hexdigest()


def blobs_at(root: pathlib.Path, commit: str) -> dict[str, str] | None:
  """Path -> hash of its content at a commit; None: the clone lacks the commit."""
  try:
    listed = git(root, 'ls-tree', '-r', '-z', commit).decode()
  except (OSError, subprocess.SubprocessError):
    return None
  entries = (line.split('\t') for line in listed.split('\0') if line)
  return {path: facts.split()[2] for facts, path in entries}


def texts(root: pathlib.Path, blobs: set[str]) -> dict[str, str]:
  """Hash -> the text that has it."""
  asked = ''.join(f'{blob}\n' for blob in blobs)
  out, found = io.BytesIO(git(root, 'cat-file', '--batch', given=asked)), {}
  while head := out.readline().split():
    found[head[0].decode()] = out.read(int(head[2])).decode()
    out.readline()
  return found


def git(root: pathlib.Path, *words: str, given: str = '') -> bytes:
  """What git says in a checkout."""
  return subprocess.run(
    ['git', '-C', str(root), *words],
    input=given.encode(),
    capture_output=True,
    check=True,
  ).stdout


def _blob(data: bytes) -> str:
  """The hash by which git knows a content."""
  return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def table(every: list[Age]) -> str:
  """A line a result: commit, files that changed, minutes of its run."""
  width = max((len(age.result.name) for age in every), default=6)
  lines = [
    f'{"result":{width}}  {"commit":8}  {"files":>5}  {"min":>4}  code changed since'
  ]
  for age in every:
    r, changed = age
    commit = (r.commits[0][:7] if r.commits else '–') + '+' * r.edited
    count = '?' if changed is None else len(changed)
    lines.append(
      f'{r.name:{width}}  {commit:8}  {count:>5}  {r.seconds / 60:4.0f}'
      f'  {_first(changed, 71 - width)}'.rstrip()
    )
  unknown = sum(age.changed is None for age in every)
  lines.append(
    f'{sum(age.stale for age in every)} of {len(every)} results are of older'
    ' code than this'
    + (f'; of {unknown} it is not known' if unknown else '')
    + '. +: the code that ran was no commit.'
  )
  return '\n'.join(lines)


def _first(changed: list[str] | None, width: int) -> str:
  """As many of the files as have room, without the folders above theirs."""
  if changed is None:
    return 'unknown: its commit is not in this clone'
  short = ['/'.join(path.split('/')[-2:]) for path in changed]
  text = ', '.join(short)
  if len(text) <= width:
    return text
  return text[: width - 2].rpartition(',')[0] + ', …'
