"""What a judge is: batches of a claim and sentences in, probabilities out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Batch = tuple[str, Sequence[str]]  # a claim, and sentences that may support it


class Usage(NamedTuple):
  """What judging has cost so far: calls to a model, and tokens, if counted."""

  calls: int = 0
  tokens: int = 0


class Judge(NamedTuple):
  """A judge of evidence.

  Attributes:
    probabilities: batches -> one array [n] a batch, the probability that each of
      its n sentences supports its claim.
    known_by: differs where the judge does; kept answers are known by it.
    usage: () -> what it has cost so far.
    batch: the most sentences of a batch that it likes.
  """

  probabilities: Callable[[Sequence[Batch]], list[np.ndarray]]
  known_by: str
  usage: Callable[[], Usage]
  batch: int = 16


def answers(judge: Judge, batches: Sequence[Batch]) -> list[np.ndarray]:
  """The judge's answers, held against its contract.

  Raises:
    ValueError: it gave another number of answers, or no probabilities.
  """
  given = [np.asarray(a, np.float64) for a in judge.probabilities(batches)]
  wanted = [(len(sentences),) for _, sentences in batches]
  if [a.shape for a in given] != wanted:
    raise ValueError(
      f'the judge {judge.known_by} gave answers of shapes'
      f' {[a.shape for a in given][:3]} to batches of {wanted[:3]}: let it return'
      ' one probability a sentence'
    )
  for answer in given:
    if not ((answer >= 0) & (answer <= 1)).all():  # NaN is not either
      raise ValueError(
        f'the judge {judge.known_by} gave {answer.min()} to {answer.max()}: let it'
        ' return probabilities from 0 to 1'
      )
  return given


def of_pairs(
  likely: Callable[[list[tuple[str, str]]], np.ndarray],
  batches: Sequence[Batch],
) -> list[np.ndarray]:
  """The answers to batches of a judge that reads pairs of claim and sentence.

  Args:
    likely: pairs -> probabilities [N].
  """
  pairs = [(claim, s) for claim, sentences in batches for s in sentences]
  out = likely(pairs) if pairs else np.zeros(0)
  ends = np.cumsum([len(sentences) for _, sentences in batches])[:-1]
  return np.split(out, ends)


def of_function(
  function: Callable[[Sequence[Batch]], list[np.ndarray]],
  known_by: str,
  batch: int = 16,
) -> Judge:
  """A judge of any such function; a call is a batch."""
  count = [0]

  def probabilities(batches: Sequence[Batch]) -> list[np.ndarray]:
    count[0] += len(batches)
    return function(batches)

  return Judge(probabilities, known_by, lambda: Usage(count[0]), batch)
