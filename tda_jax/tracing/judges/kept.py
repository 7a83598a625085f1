"""Answers kept on disk, each complete or absent, so that none is asked for twice."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tda_jax.storage import files, record
from tda_jax.tracing.judges.judge import Batch, Judge


def name_of(question: Any) -> str:
  """The name of the file of an answer: a digest of what was asked."""
  text = json.dumps(question, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()[:40]


def read(folder: str | os.PathLike | None, name: str) -> Any:
  """The answer of that name; None: it is absent or damaged, to be asked again."""
  if folder is None:
    return None
  file = pathlib.Path(folder) / name[:2] / f'{name}.json'
  if not file.exists():
    return None
  try:
    return record.read_json(file).get('answer')
  except ValueError:
    return None


def write(folder: str | os.PathLike | None, name: str, answer: Any) -> None:
  """Keeps an answer; nothing where there is no folder."""
  if folder is None:
    return
  file = pathlib.Path(folder) / name[:2] / f'{name}.json'
  file.parent.mkdir(parents=True, exist_ok=True)
  record.write_json(file, {'answer': answer})


def kept(judge: Judge, folder: str | os.PathLike) -> Judge:
  """The same judge, whose answers are kept, by claim, sentences and `known_by`.

  One file a batch. What was answered is neither asked nor counted again.
  """
  files.check_local(folder, 'the folder')
  return judge._replace(
    probabilities=functools.partial(_probabilities, judge, folder)
  )


def _probabilities(
  judge: Judge, folder: str | os.PathLike, batches: Sequence[Batch]
) -> list[np.ndarray]:
  names = [
    name_of([judge.known_by, claim, list(sentences)])
    for claim, sentences in batches
  ]
  answers = [read(folder, name) for name in names]
  absent = [i for i, answer in enumerate(answers) if answer is None]
  if absent:
    new = judge.probabilities([batches[i] for i in absent])
    for i, answer in zip(absent, new, strict=True):
      answers[i] = answer
      write(folder, names[i], [float(p) for p in answer])
  return [np.asarray(answer, np.float64) for answer in answers]
