"""Documents in files (.txt, .jsonl, .parquet), Hugging Face datasets, sequences."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

SPLITS = ('file', 'paragraph', 'line')
SUFFIXES = ('.txt', '.jsonl', '.parquet')


class Document(NamedTuple):
  """A text, and what comes before it and is not predicted."""

  prompt: str | None
  text: str


class Documents(NamedTuple):
  """Documents that can be read more than once.

  Attributes:
    read: () -> an iterator of all of them, in order.
    digest: () -> a hash of what they are read from.
  """

  read: Callable[[], Iterator[Document]]
  digest: Callable[[], str]


def documents(
  given: Any,
  *,
  field: str = 'text',
  prompt: str | None = None,
  split: str = 'file',
) -> Documents:
  """The documents of files, of a dataset or of a sequence.

  Args:
    given: a path (text or pathlib.Path) or a list of pathlib.Path, of .txt (UTF-8),
      .jsonl and .parquet files; or whatever can be iterated over again, of texts or
      of mappings: a list, a Hugging Face dataset.
    field: of a document that is no plain text, the field of its text.
    prompt: the field of its prompt; None: documents have none.
    split: what is a document of a .txt file: the 'file', a 'paragraph' (between
      blank lines) or a 'line' that is not blank.

  Raises:
    ValueError: they can be read once only, or are of an unknown kind; while they
      are read: a file cannot be read, or a document has no such field.
  """
  if split not in SPLITS:
    raise ValueError(f'unknown split {split!r}: use one of {list(SPLITS)}')
  paths = _paths(given)
  fields = field, prompt
  if paths is None:
    return Documents(
      lambda: _of_items(given, fields),
      lambda: _digest_of(_of_items(given, fields)),
    )
  if prompt is not None and any(path.suffix == '.txt' for path in paths):
    raise ValueError(
      f'a .txt file has no field {prompt!r}: give prompts in .jsonl or .parquet'
    )

  def read():
    for path in paths:
      yield from _of_file(path, fields, split)

  return Documents(read, lambda: _digest_of_files(paths))


def _paths(given) -> list[pathlib.Path] | None:
  """The files that were given; None: rows were."""
  if isinstance(given, (str, os.PathLike)):
    given = [pathlib.Path(given)]
  elif not hasattr(given, '__iter__') or iter(given) is given:
    raise ValueError(
      f'documents of type {type(given).__name__} cannot be read more than once:'
      ' give files, a list of texts or a dataset'
    )
  if isinstance(given, Mapping) or hasattr(given, 'columns'):
    raise ValueError(
      f'documents in a {type(given).__name__} are columns or parts: give one of'
      ' them, a list of texts or a dataset'
    )
  first = next(iter(given), None)
  if first is None:
    raise ValueError('there are no documents: give at least one file or text')
  if not isinstance(first, os.PathLike):
    if (
      isinstance(first, str) and first.endswith(SUFFIXES) and '\n' not in first
    ):
      if pathlib.Path(first).is_file():
        raise ValueError(
          f'the first text {first!r} is the name of a file: give files as'
          ' pathlib.Path'
        )
    return None
  paths = [pathlib.Path(path) for path in given]
  for path in paths:
    if path.suffix not in SUFFIXES or not path.is_file():
      kind = 'no file' if not path.is_file() else 'a file of an unknown kind'
      raise ValueError(f'{path} is {kind}: give files of {", ".join(SUFFIXES)}')
  return paths


def _of_items(items, fields):
  """Documents of texts or mappings."""
  for i, item in enumerate(items):
    called = f'document {i}'
    if isinstance(item, str) and fields[1] is None:
      yield Document(None, _text(item, called))
    elif isinstance(item, Mapping):
      yield _of_fields(item, fields, called)
    else:
      raise ValueError(
        f'{called} is of type {type(item).__name__}: give'
        f' {"texts or " if fields[1] is None else ""}mappings with the field'
        f'{"s" if fields[1] else ""} {", ".join(map(repr, filter(None, fields)))}'
      )


def _of_file(path, fields, split):
  """Documents of one file."""
  read = {'.txt': _of_txt, '.jsonl': _of_jsonl, '.parquet': _of_parquet}
  try:
    yield from read[path.suffix](path, fields, split)
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not in UTF-8 ({error.reason}): convert it, for example by iconv'
      ' -f latin1 -t utf8'
    ) from error
  except OSError as error:
    raise ValueError(
      f'{path} cannot be read ({error}): repair or leave it out'
    ) from error


def _of_txt(path, fields, split):
  del fields
  with open(path, encoding='utf-8-sig') as file:
    if split == 'file':
      yield Document(None, file.read())
    elif split == 'line':
      yield from (Document(None, x.rstrip('\n')) for x in file if x.strip())
    else:
      lines = []
      for line in file:
        if line.strip():
          lines.append(line)
        elif lines:
          yield Document(None, ''.join(lines).rstrip('\n'))
          lines = []
      if lines:
        yield Document(None, ''.join(lines).rstrip('\n'))


def _of_jsonl(path, fields, split):
  del split
  with open(path, encoding='utf-8-sig') as file:
    for number, line in enumerate(file, 1):
      called = f'line {number} of {path}'
      if not line.strip():
        continue
      try:
        item = json.loads(line)
      except json.JSONDecodeError as error:
        raise ValueError(
          f'{called} is no JSON ({error.msg}): write one object a line'
        ) from error
      if not isinstance(item, dict):
        raise ValueError(f'{called} is no JSON object: write one a line')
      yield _of_fields(item, fields, called)


def _of_parquet(path, fields, split):
  del split
  try:
    import pyarrow
    import pyarrow.parquet as parquet
  except ImportError:
    raise ValueError(
      f'reading {path} takes the package pyarrow: pip install "tda_jax[data]"'
    ) from None
  names = [name for name in fields if name is not None]
  try:
    with parquet.ParquetFile(path) as file:
      known = [name for name in names if name in file.schema_arrow.names]
      number = 0
      for batch in file.iter_batches(1024, columns=known or None):
        for item in batch.to_pylist():
          yield _of_fields(item, fields, f'row {number} of {path}')
          number += 1
  except pyarrow.ArrowException as error:
    raise ValueError(
      f'{path} cannot be read ({error}): repair or leave it out'
    ) from error


def _of_fields(item, fields, called) -> Document:
  """The document that a mapping holds.

  Raises:
    ValueError: it has no such field, or no text in it.
  """
  for name in fields:
    if name is not None and name not in item:
      raise ValueError(
        f'{called} has no field {name!r}, only {sorted(map(str, item))}: name the'
        ' right one, field= or prompt='
      )
  field, prompt = fields
  before = None if prompt is None else _text(item[prompt], called, prompt)
  return Document(before, _text(item[field], called, field))


def _text(value, called, field=None) -> str:
  """A text that UTF-8 can write."""
  where = called if field is None else f'the field {field!r} of {called}'
  if not isinstance(value, str):
    raise ValueError(
      f'{where} is of type {type(value).__name__}: give text there, or leave the'
      ' document out'
    )
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'{where} is no text ({error.reason}): repair it, or leave it out'
    ) from error
  return value


def digest(document: Document) -> bytes:
  """16 bytes that are equal for equal documents only."""
  prompt, text = document
  sha = hashlib.sha256(f'{-1 if prompt is None else len(prompt)} '.encode())
  sha.update((prompt or '').encode())
  sha.update(text.encode())
  return sha.digest()[:16]


def _digest_of(read) -> str:
  sha = hashlib.sha256()
  for document in read:
    sha.update(digest(document))
  return sha.hexdigest()[:16]


def _digest_of_files(paths) -> str:
  sha = hashlib.sha256()
  for path in paths:
    try:
      with open(path, 'rb') as file:
        sha.update(path.suffix.encode())
        sha.update(hashlib.file_digest(file, 'sha256').digest())
    except OSError as error:
      raise ValueError(
        f'{path} cannot be read ({error}): repair or leave it out'
      ) from error
  return sha.hexdigest()[:16]
