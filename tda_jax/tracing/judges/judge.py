"""What a judge is: batches of a claim and sentences in, probabilities out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Batch = tuple[str, Sequence[str]]  # a claim, and sentences that may support it


class Spent(NamedTuple):
  """What judging has cost so far: calls to a model, and tokens, if counted."""

  calls: int = 0
  tokens: int = 0


class Judge(NamedTuple):
  """A judge of evidence.

  Attributes:
    probabilities: batches -> one array [n] a batch, the probability that each of
      its n sentences supports its claim.
    known_by: differs where the judge does; kept answers are known by it.
    spent: () -> what it has cost so far.
    batch: the most sentences of a batch that it likes.
  """

  probabilities: Callable[[Sequence[Batch]], list[np.ndarray]]
  known_by: str
  spent: Callable[[], Spent]
  batch: int = 16


def asked(judge: Judge, batches: Sequence[Batch]) -> list[np.ndarray]:
  """The judge's answers, held against its contract.

  Raises:
    ValueError: it gave another number of answers, or no probabilities.
  """
  answers = [np.asarray(a, np.float64) for a in judge.probabilities(batches)]
  wanted = [(len(sentences),) for _, sentences in batches]
  if [a.shape for a in answers] != wanted:
    raise ValueError(
      f'the judge {judge.known_by} gave answers of shapes'
      f' {[a.shape for a in answers][:3]} to batches of {wanted[:3]}: let it return'
      ' one probability a sentence'
    )
  for answer in answers:
    if not ((answer >= 0) & (answer <= 1)).all():  # NaN is not either
      raise ValueError(
        f'the judge {judge.known_by} gave {answer.min()} to {answer.max()}: let it'
        ' return probabilities from 0 to 1'
      )
  return answers


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

  return Judge(probabilities, known_by, lambda: Spent(count[0]), batch)
