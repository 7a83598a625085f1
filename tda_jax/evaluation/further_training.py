"""Ground truth for a model of which only the final parameters are known.

How sensitive is the given model to a row? It is trained further from θ_f, with
all rows and with each row left out, all with the same order of rows, and the
queries are measured along the way. The amount of further training is part of
the question: the answer is a curve.

Source: Wei et al. 2025, "Final-Model-Only Data Attribution with a Unifying View
of Gradient-Based Methods", §3, https://arxiv.org/abs/2412.03906
"""

import os
from collections.abc import Sequence

import jax
import numpy as np

from tda_jax import door, trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import retraining
from tda_jax.problem import Problem
from tda_jax.storage.fingerprint import digest
from tda_jax.training import fit, members
from tda_jax.training.fit import Member, Recipe
from tda_jax.trees import PyTree

MODES = ('zero weight', 'every batch', 'delete')


@door.renamed(at_once='members_at_once')
@door.by_keyword
def further_training(
  problem: Problem,
  recipe: Recipe,
  params: PyTree,
  train: PyTree,
  queries: PyTree,
  indices: np.ndarray,
  *,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  points: Sequence[int] | None = None,
  mode: str = 'zero weight',
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Measures along further training, with all rows and without each of L.

  Repeat r has one key, fold_in(key, r) or key[r], for all its L + 1 models: the
  same order of rows, only the row differs. Results stream to the score store at
  `path` ([R·(L+1), T, Q], row r·(L+1) for all rows); the same call continues a
  store that a killed process left, to the same numbers.

  Args:
    recipe: of the further training; its `init` is not used.
    params: θ_f, of one model; of R models, leaves [R, ...], where keys are
      given: repeat r then continues model r.
    indices: [L] rows to leave out, one at a time.
    key: one, or [R] of them with R models.
    points: [T] steps of the run after which to measure, rising; None: the end
      of every epoch.
    mode: how row i is left out. 'zero weight': its loss is 0 in the batches
      where it occurs. 'every batch': every batch follows mean loss − loss_i/N
      (the paper's for SST-2), which has the same expected gradient at θ_f and
      less variance. 'delete': the order without i, later rows moving up
      between batches (the paper's for tables); most variance.
    members_at_once: models trained together.
    attributes: further fields of the store's record.

  Returns:
    (base [R, T, Q], left_out [L, R, T, Q]); `adjusted` makes effects of them.

  Raises:
    ValueError: bad rows, indices, points or mode; parameters with NaN, or that
      do not fit the problem; a model diverged; the store is of another run.
  """
  train = door.rows(train, 'train', problem)
  rows, key = rows_lib.count(train), door.as_keys(key)
  indices = retraining.checked_indices(indices, rows)
  total = fit.total_steps(recipe, rows)
  if points is None:
    steps = fit.steps_per_epoch(rows, recipe.batch_size)
    points = range(steps, total + 1, steps)
  points = retraining.checked_points(points, total)
  _check(mode, params, recipe, rows)
  keys = retraining.repeat_keys(key, repeats)
  make_init = _init_by_key if key.ndim else _shared_init
  recipe = recipe._replace(init=make_init(params, keys))

  def members_at(j):
    repeat, out = retraining.repeat_and_row(j, indices)
    member_keys = keys[repeat]
    if mode == 'zero weight':
      return Member(member_keys, weights=retraining.weights_without(out, rows))
    if mode == 'every batch':
      return Member(member_keys, removed=out)
    return Member(member_keys, deleted=out)

  name = retraining.leave_one_out_name(indices)
  models = retraining.Models(members_at, name, len(indices) + 1, repeats)
  outcomes = retraining.measure_retrained(
    problem,
    recipe,
    train,
    queries,
    models,
    identity={
      'kind': 'further training',
      'mode': mode,
      'points': points,
      'params': digest(params),
      'indices': digest(indices),
      'key': digest(key),
    },
    path=path,
    points=points,
    members_at_once=members_at_once,
    attributes=attributes,
    progress=progress,
  )
  return outcomes[0], outcomes[1:]


def adjusted(
  base: np.ndarray, left_out: np.ndarray, subtract_mean: bool = True
) -> np.ndarray:
  """Effects of rows on queries, with the sign of a score: positive supports.

  effect[i, r, t, q] = base[r, t, q] − left_out[i, r, t, q]: the run on all rows
  with the same seed shows how far θ_f was from stationary (the paper's Eq. 17).
  With `subtract_mean`, the mean over the rows i is then subtracted (Eq. 13,
  which alone makes the first step unnecessary). Average over R for the estimate.

  Args:
    base, left_out: [R, T, Q] and [L, R, T, Q], of `further_training`.

  Returns:
    [L, R, T, Q] in float64.
  """
  effects = np.asarray(base, np.float64)[None] - left_out
  return effects - effects.mean(0) if subtract_mean else effects


def _shared_init(params, keys):
  """A function key -> params, the same for all members."""
  del keys
  return lambda key: members.on_device(params)


def _init_by_key(params, keys):
  """A function from a member's initialisation key to the params of its repeat."""
  if trees.count(params) != len(keys):
    raise ValueError(
      f'{trees.count(params)} models and {len(keys)} keys: give one key for each'
      ' model that is trained further'
    )
  data_of = jax.random.key_data
  starts = data_of(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys))
  stack = members.on_device(params)
  return lambda key: trees.row(stack, (starts == data_of(key)).all(-1).argmax())


def _check(mode, params, recipe, rows):
  if mode not in MODES:
    raise ValueError(f'mode={mode!r}: use one of {", ".join(MODES)}')
  door.parameters(params)
  if mode == 'delete' and (rows - 1) % recipe.batch_size == 0:
    raise ValueError(
      f'deleting one of {rows} rows leaves the last batch of'
      f' {recipe.batch_size} empty: give another batch_size'
    )
