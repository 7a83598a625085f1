"""Language modelling: a row is a sequence of tokens, its loss a sum over tokens.

A row has `ids` [T], what the model reads; `targets` [T], the token that follows at
each position, a column of its own, so that drawn labels change no input; `mask`
[T], 1 where the target counts (`data.sequences` and `data.corpus` make them). With
z_t the logits at position t,

  loss = −Σ_t mask_t · log p_t,   p_t = softmax(z_t)[target_t],   in nats.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import labels, shapes
from tda_jax.problem import Problem, ready
from tda_jax.trees import PyTree

COLUMNS = ('targets', 'mask')


def language_modeling(
  apply: Callable,
  l2: float = 0.0,
  *,
  inputs: str | tuple[str, ...] = ('ids',),
  **options: Any,
) -> Problem:
  """Next tokens of sequences {'ids', 'targets', 'mask'}, columns [N, T].

  loss = −Σ_t mask_t · log p_t, the sum over the row's targets and not their mean;
  measure = Σ_t mask_t · log p_t, the log-likelihood of a query's targets: of a
  whole answer, or of one token, as its mask says. Where the columns of queries are
  [Q, 2, T], it is the contrast of two continuations, log p of the first minus log
  p of the second, in which cancels what all rows teach alike. Labels are drawn
  from softmax(z_t) where the mask is 1, by the position's number in its row: a
  document that stands elsewhere in a packed row draws others, of one distribution.

  Args:
    apply: (params, ids [B, T]) -> logits [B, T, V], each row depending on itself
      only, and no position on what is behind it; `models.decoder.decoder` makes
      one.
    l2: see `Problem`.
    inputs: the columns that `apply` is given, in its order; of packed rows
      `('ids', 'positions', 'segments')`.
    options: `as_leaf`, `leave_out`, `only`; see `problem.ready`.
  """

  def terms(outputs, example):
    if jnp.ndim(example['mask']) != 1:
      raise shapes.Refused(
        'rows [N, 2, T] are contrasts, which have a measure and no loss: they are'
        ' queries; give rows to learn from as [N, T]'
      )
    return -log_likelihoods(outputs, example)

  def loss(outputs, example):
    return jnp.sum(terms(outputs, example))

  def measure(outputs, example):
    """The log-likelihood of the targets, or of one minus another, in nats."""
    each = jnp.sum(log_likelihoods(outputs, example), -1)
    return each if each.ndim == 0 else each[0] - each[1]

  def sample(key, outputs, example):
    drawn = jax.random.categorical(key, outputs)
    targets = jnp.where(example['mask'] != 0, drawn, example['targets'])
    return {**example, 'targets': targets}

  return ready(
    apply,
    loss,
    measure,
    sample,
    _check_of(inputs),
    l2,
    inputs=inputs,
    labelled=COLUMNS,
    pairs=True,
    terms=terms,
    **options,
  )


def log_likelihoods(outputs: jax.Array, example: PyTree) -> jax.Array:
  """log p of each target, 0 where the mask is, [T] (or [2, T]), in nats.

  Args:
    outputs: logits [T, V] (or [2, T, V]) of one example.
  """
  targets = jnp.asarray(example['targets'])[..., None]
  own = jnp.take_along_axis(outputs, targets, -1)[..., 0]
  log_p = own - jax.nn.logsumexp(outputs, -1)
  return jnp.where(jnp.asarray(example['mask']) != 0, log_p, 0.0)


# --- what is refused --------------------------------------------------------


def _check_of(inputs):
  """The problem's `check`; see `Problem`."""

  def check(shape, rows):
    if len(shape) not in (2, 3):
      raise ValueError(
        f'the outputs of one example have shape {list(shape)}, and language'
        ' modelling takes a logit for each position and token, [B, T, V]'
      )
    columns = {
      name: np.asarray(labels.column(rows, name))
      for name in dict.fromkeys(('ids', *COLUMNS))
      if name != 'ids' or 'ids' in inputs
    }
    _check_shapes(columns, shape)
    for name in {*columns} - {'mask'}:
      _check_tokens(columns[name], name, shape[-1])
    _check_mask(columns['mask'])
    if 'segments' in rows and 'segments' not in inputs:
      _check_unpacked(np.asarray(rows['segments']), columns['mask'])

  return check


def _check_shapes(columns, shape):
  """Columns [N, T], or [N, 2, T], of as many positions as the model has outputs."""
  for name, column in columns.items():
    if column.shape[1:] != shape[:-1]:
      raise ValueError(
        f'column {name!r} has shape {list(column.shape)}, and the model gives'
        f' {" x ".join(map(str, shape[:-1]))} positions a row: give ids, targets and'
        ' mask of one shape [N, T], or [N, 2, T] of contrasts, as'
        ' tda_jax.data.sequences makes them'
      )


def _check_tokens(tokens, name, vocabulary):
  if tokens.dtype.kind not in 'iu':
    raise ValueError(
      f'column {name!r} has type {tokens.dtype}: give whole numbers, the ids of'
      ' tokens'
    )
  bad = (tokens < 0) | (tokens >= vocabulary)
  if bad.any():
    row = int(np.argmax(bad.reshape(len(bad), -1).any(1)))
    raise ValueError(
      f'row {row} has token {tokens[row][bad[row]][0]} in column {name!r}, and the'
      f' model has {vocabulary} (0 to {vocabulary - 1}): use the tokenizer of this'
      ' model, and 0 for padding'
    )


def _check_mask(mask):
  whole = (mask == 0) | (mask == 1)
  if not whole.all():
    row = int(np.argmin(whole.reshape(len(whole), -1).all(1)))
    raise ValueError(
      f'the mask of row {row} has {mask[row][~whole[row]][0]}: give 1 where a target'
      ' counts and 0 elsewhere'
    )
  some = (mask != 0).any(-1)
  if not some.all():
    row = int(np.argmin(some.reshape(len(some), -1).all(1)))
    raise ValueError(
      f'row {row} has no target: its mask is 0 everywhere; leave the row out'
    )


def _check_unpacked(segments, mask):
  """Refuses rows whose targets are of several documents."""
  counts = mask != 0
  first = np.where(counts, segments, np.inf).min(-1)
  last = np.where(counts, segments, -np.inf).max(-1)
  packed = (first < last).reshape(len(segments), -1).any(1)
  if packed.any():
    raise ValueError(
      f'row {int(np.argmax(packed))} has several documents (column segments), and'
      " the model reads each row as one: give inputs=('ids', 'positions',"
      " 'segments') with an apply that takes them, or rows that are not packed"
    )
