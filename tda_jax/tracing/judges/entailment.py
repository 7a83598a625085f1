"""A judge that is trained here: an encoder read as a cross-encoder of pairs.

It learns from (claim, sentence, whether the one follows from the other) of any
corpus; the threshold and the calibration come of pairs that it did not learn from.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.models import cross_encoder
from tda_jax.models.encoder import Sizes
from tda_jax.storage import fingerprint
from tda_jax.tracing.judges.judge import Judge, Usage, of_pairs
from tda_jax.training import members
from tda_jax.training.fit import Recipe
from tda_jax.trees import PyTree

LENGTHS = (24, 32, 48, 64, 96, 128)  # of padded pairs, so that few are compiled


class Reader(NamedTuple):
  """An encoder that pairs are read with.

  Attributes:
    sizes, params: of `tda_jax.models.encoder.read`.
    tokenizer: of `tda_jax.models.tokens.read`.
    trained: blocks that are trained, from the last down.
    length: tokens of a pair in training; longer ones are cut.
  """

  sizes: Sizes
  params: PyTree
  tokenizer: Any
  trained: int = 3
  length: int = 48


class Trained(NamedTuple):
  """What was learned: differences from the encoder's parameters, and a head.

  Attributes:
    reader: with which.
    params: of `cross_encoder`.
    scale, offset: probability = σ(scale · logit + offset).
  """

  reader: Reader
  params: PyTree
  scale: float = 1.0
  offset: float = 0.0


def train(
  reader: Reader,
  pairs: Sequence[tuple[str, str]],
  supports: np.ndarray,
  *,
  steps: int = 200,
  batch_size: int = 32,
  learning_rate: float = 1e-4,
  seed: int = 0,
  directory: str | os.PathLike | None = None,
  progress: bool = True,
) -> Trained:
  """Trains a judge by AdamW, clipped and with a warm-up, on binary cross-entropy.

  Args:
    pairs: (claim, sentence).
    supports: bool, of each.
    steps: about as many, whole passes over a random part of the pairs.
    directory: where training is kept; the same call goes on from there.

  Raises:
    ValueError: pairs of one kind only; what `members.train` raises.
  """
  supports = np.asarray(supports, bool)
  if len(supports) != len(pairs) or len(set(supports.tolist())) < 2:
    raise ValueError(
      f'{len(pairs)} pairs of which {int(supports.sum())} of {len(supports)}'
      ' support: give pairs of both kinds, with a label each'
    )
  rows = cross_encoder.rows(pairs, reader.tokenizer, reader.length)
  rows['y'] = supports.astype(np.int32)
  chosen = np.random.default_rng(seed).permutation(len(pairs))
  chosen = chosen[: steps * batch_size]
  epochs = max(1, round(steps * batch_size / len(chosen)))
  rows = rows_lib.take(rows, np.sort(chosen))
  problem, init = programs(reader.sizes, reader.trained)
  rate = lambda total: optax.warmup_cosine_decay_schedule(
    0.0, learning_rate, max(1, total // 10), total, learning_rate / 30
  )
  recipe = Recipe(
    init,
    lambda total: optax.chain(
      optax.clip_by_global_norm(1.0),  # without it some trainings collapse
      optax.adamw(rate(total), weight_decay=1e-2),
    ),
    rate,
    min(batch_size, len(chosen)),
    epochs,
  )
  run = members.train(
    problem,
    recipe,
    rows,
    jax.random.split(jax.random.key(seed), 1),
    frozen=jax.tree.map(lambda x: jnp.asarray(x)[None], reader.params),
    directory=directory,
    progress=progress,
  )
  return Trained(reader, trees.row(run.params, 0))


@functools.lru_cache(8)
def programs(sizes: Sizes, trained: int) -> tuple[Any, Callable]:
  """(problem, init) of a cross-encoder; equal sizes give the same, compiled once."""
  init, apply = cross_encoder.cross_encoder(sizes, trained)
  problem = problem_lib.binary(apply, inputs=('ids', 'segments'))
  return problem, init


@functools.lru_cache(8)
def _scored(sizes, trained):
  apply = cross_encoder.cross_encoder(sizes, trained)[1]
  return jax.jit(lambda *given: apply(*given)[:, 0])


def logits(
  trained: Trained, pairs: Sequence[tuple[str, str]], batch_size: int = 64
) -> np.ndarray:
  """The logit of each pair, [N]; pairs of like length are read together."""
  reader = trained.reader
  most = min(reader.sizes.context, LENGTHS[-1])
  rows = cross_encoder.rows(pairs, reader.tokenizer, most)
  own = (rows['ids'] != cross_encoder.PADDING).sum(1)
  order, out = np.argsort(own, kind='stable'), np.zeros(len(pairs))
  apply = _scored(reader.sizes, reader.trained)
  on_device = functools.partial(jax.tree.map, jnp.asarray)
  params, base = map(on_device, trained_trees(trained))
  for start in range(0, len(pairs), batch_size):
    chosen = order[start : start + batch_size]
    length = next((n for n in LENGTHS if n >= own[chosen].max()), most)
    length = min(length, most)
    filled = np.resize(chosen, batch_size)  # one shape for each length
    ids, segments = (rows[n][filled, :length] for n in ('ids', 'segments'))
    out[chosen] = np.asarray(apply(params, ids, segments, base))[: len(chosen)]
  return out


def trained_trees(trained: Trained) -> tuple[PyTree, PyTree]:
  """(what was trained, what it is a difference from)."""
  return trained.params, trained.reader.params


def calibrated(
  trained: Trained,
  pairs: Sequence[tuple[str, str]],
  supports: np.ndarray,
  weights: np.ndarray | None = None,
) -> Trained:
  """The same judge with σ(scale · logit + offset) fitted to held-out pairs.

  Args:
    weights: of the pairs, by which held-out pairs get the shares that kinds of
      pairs have among candidates; None: all alike.

  Source: Platt 1999, https://www.cs.colorado.edu/~mozer/Teaching/syllabi/6622/papers/Platt1999.pdf
  """
  from sklearn.linear_model import LogisticRegression

  x = logits(trained, pairs)[:, None]
  fit = LogisticRegression(C=1e3).fit(x, np.asarray(supports, bool), weights)
  return trained._replace(
    scale=float(fit.coef_[0, 0]), offset=float(fit.intercept_[0])
  )


def probabilities(
  trained: Trained, pairs: Sequence[tuple[str, str]]
) -> np.ndarray:
  """The probability that each sentence supports its claim, [N]."""
  z = trained.scale * logits(trained, pairs) + trained.offset
  return 1 / (1 + np.exp(-np.clip(z, -60, 60)))


def judge(trained: Trained, batch: int = 64) -> Judge:
  """The trained model as a judge; a call is a pair that is read."""
  count = [0]

  def likely(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    count[0] += len(pairs)
    return probabilities(trained, pairs)

  digest = fingerprint.digest([*trained_trees(trained)])
  known_by = f'cross-encoder {digest}, {trained.scale!r}, {trained.offset!r}'
  answers = functools.partial(of_pairs, likely)
  return Judge(answers, known_by, lambda: Usage(count[0]), batch)


def threshold(
  likely: np.ndarray, supports: np.ndarray, missed: int = 0
) -> float:
  """The probability from which on F1 over held-out pairs is largest.

  The middle of the two values that it lies between.

  Args:
    likely: probabilities [N] of candidates, at the rate of positives that
      candidates have.
    supports: bool [N].
    missed: positives that are no candidates.
  """
  likely, supports = np.asarray(likely), np.asarray(supports, bool)
  order = np.argsort(-likely, kind='stable')
  hits = np.cumsum(supports[order])
  f1 = 2 * hits / (np.arange(1, len(order) + 1) + supports.sum() + missed)
  ends = np.append(likely[order][:-1] != likely[order][1:], True)
  best = int(np.argmax(np.where(ends, f1, -1.0)))
  below = likely[order[best + 1]] if best + 1 < len(order) else 0.0
  return float((likely[order[best]] + below) / 2)
