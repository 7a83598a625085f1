"""Pairs of models nudged to the right and to the wrong output, and their losses.

The contrastive error attribution of Ladhak et al. 2023 ("Contrastive Error Attribution
for Finetuned Language Models", https://arxiv.org/abs/2212.10722), as the released
pipeline of DDA uses it at each checkpoint (Wu et al. 2024,
https://arxiv.org/abs/2410.01285; see `methods.dda`).
"""

import functools

import jax
import jax.numpy as jnp
import optax

from tda_jax.data import rows as rows_lib
from tda_jax.methods import points as points_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import losses, measures
from tda_jax.settings import kept

OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}


@kept
def contrast_pair(
  steps: int = 6,
  rate: float = 1e-4,
  *,
  optimizer: str = 'adam',
  beta: float = 0.0,
  denoise: bool = True,
  pooled: bool = False,
) -> Method:
  """score[i, q] = (1/C) Σ_c D_iq(θ_c) − beta·D_iq(θ_0).

  D_iq(θ) = loss_i(θ nudged to the right output) − loss_i(θ nudged to the wrong
  one), in nats: positive for a row that is easier for the model that errs. A nudge
  is `steps` steps up the measure of one output. Of SGD with a small rate ε it is,
  to first order, 2·ε·steps·N times `dda`'s score of half the contrast: a finite
  difference of the same thing.

  Queries are pairs of outputs, columns [Q, 2, ...], the wrong output first
  (`data.sequences.contrasts`). Memory holds two models for each of them, and of
  `pooled` two in all.

  Args:
    steps, rate, optimizer: of a nudge, from a fresh state of 'adam' or 'sgd'.
    beta, denoise: see `dda`.
    pooled: nudges one pair by the mean measure of all queries that are prepared
      together, as that pipeline does; each then has the same scores. Give queries
      of one kind of error in one call.

  Raises:
    ValueError: unknown optimizer; queries that are no pairs; the run has no
      checkpoints, or no base.
  """
  if optimizer not in OPTIMIZERS:
    raise ValueError(
      f'unknown optimizer {optimizer!r}: use one of {sorted(OPTIMIZERS)}'
    )
  step = OPTIMIZERS[optimizer](rate)
  points = lambda run: points_lib.points(run, beta, denoise, 'contrast_pair')

  def prepare(problem, run, train, queries, key):
    del train, key
    _check_pairs(queries)
    count = rows_lib.count(queries)
    wrong, right = (
      jax.tree.map(lambda x, i=i: jnp.asarray(x)[:, i], queries) for i in (0, 1)
    )
    split = (lambda x: x[None]) if pooled else (lambda x: x[:, None])
    sides = jax.tree.map(split, (wrong, right))  # [Q or 1, G, ...]

    def at(problem, run, sides, _):
      def pair(sides):
        nudge = functools.partial(_nudged, problem, run.params, step, steps)
        return tuple(map(nudge, sides))

      return jax.lax.map(pair, sides)

    states = []
    for group in points(run):
      models = points_lib.mapped(at, problem, run, group, sides, None)
      states.append((models, group.weights))
    return Prepared((states, jnp.zeros(count)))

  def score(problem, run, prepared, batch):
    def at(problem, run, batch, of_point):
      models, weight = of_point

      def of_pair(pair):
        wrong, right = (losses(problem, p, batch.examples) for p in pair)
        return weight * (right - wrong)

      return jax.lax.map(of_pair, models)

    states, zeros = prepared.state
    total = jnp.zeros(())
    for group, of_point in zip(points(run), states, strict=True):
      scores = points_lib.mapped(at, problem, run, group, batch, of_point)
      total += scores.sum(0)
    return total.T + zeros  # one column for each query, also of one pair

  return Method(prepare, score, unit='none')


def _nudged(problem, params, optimizer, steps, outputs):
  """The model after the steps up the mean measure of `outputs` [G, ...]."""

  def cost(params):
    return -jnp.mean(measures(problem, params, outputs))

  def one(_, state):
    params, moments = state
    updates, moments = optimizer.update(jax.grad(cost)(params), moments, params)
    return optax.apply_updates(params, updates), moments

  return jax.lax.fori_loop(0, steps, one, (params, optimizer.init(params)))[0]


def _check_pairs(queries):
  """Raises ValueError unless each query is of two outputs."""
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(queries)]
  if not all(len(shape) > 1 and shape[1] == 2 for shape in shapes):
    raise ValueError(
      'contrast_pair nudges to the wrong and to the right output, and these queries'
      f' have columns {[list(shape) for shape in shapes]}: give pairs [Q, 2, ...],'
      ' the wrong output first, as tda_jax.data.sequences.contrasts makes them'
    )
