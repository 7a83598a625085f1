"""TrackStar: cosines of corrected, projected and whitened gradients.

Chang et al. 2024 ("Scalable Influence and Fact Tracing for Large Language Model
Pretraining", §3, https://arxiv.org/abs/2410.17413). What is done to a gradient, in
this order:

  1. optimizer    each layer's ∇W is divided by √v, v the optimizer's second
                  moments of its entries;
  2. projection   γ = Uᵀ(∇W / √v) V of each layer, r·r' numbers;
  3. whitening    φ = R^(−1/2) γ, R_train the mean of γ γᵀ over training rows, by
                  layer, R_queries that over the queries, of their measure, and
                  R = (1 − mix) R_train + mix R_queries + damping;
  4. unit norm    of φ over all layers side by side.

  score[i, q] = −Σ_layers φ_q · φ_i / (‖φ_q‖ ‖φ_i‖), φ_q of the measure and φ_i of
  the loss.

The paper's v are Adafactor's, a factor for each side of a matrix, and its mix is
chosen so that R_queries weighs down the directions that all queries share.
Projections there are Gaussian, bases here orthonormal, and R is by layer, there by
blocks of layers.
"""

import jax
import jax.numpy as jnp

from tda_jax import parallel, trees
from tda_jax.curvature import ekfac, factored, two_sided
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.layers import find as layers_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept

MOMENTS = ('factored', 'whole', None)


@kept
def trackstar(
  damping: inverse_lib.Damping = 'heuristic',
  *,
  rank: tuple[int, int] = (16, 16),
  second_moments: str | None = None,
  mix: float = 0.0,
  whitened: bool = True,
  batch_size: int = 256,
) -> Method:
  """TrackStar of one model: a cosine in [−1, 1] without unit; positive supports.

  Rows and queries without a gradient have score 0.

  Args:
    damping: added to R: a number, or 'heuristic', 0.1 · the mean eigenvalue of
      each layer's R.
    rank: (r, r') of every layer; a side that is no larger is taken whole.
    second_moments: 'factored', the paper's: v_io ≈ r_i c_o / mean(v), by which no
      gradient is formed; 'whole': each entry's own, which forms the gradients of
      a batch's rows in one layer; None: step 1 is left out. Both read the last
      of the run's `second_moments`, those of Adam.
    mix: the share of R_queries, over the queries that are prepared together; with
      0 queries do not depend on each other.
    whitened: False leaves step 3 out, and damping and mix are not read: with
      `second_moments` what LESS compares (Xia et al. 2024,
      https://arxiv.org/abs/2402.04333), which corrects rows alone, by Adam's
      whole step, and sums over checkpoints.
    batch_size: rows projected at once for R.

  Raises:
    ValueError: unknown `second_moments`, which the run must have if they are
      read; a rank below 1; mix is not in [0, 1); damping is 0.
  """
  if second_moments not in MOMENTS:
    raise ValueError(
      f'second_moments={second_moments!r} is unknown: use one of {MOMENTS}'
    )
  two_sided.check_rank(rank)

  def fit(problem, run, train, key):
    """(sides of each layer, R_train of each)."""
    layers = two_sided.layers_of(problem, run.params, train)
    sides = two_sided.random(layers, key, rank)
    sides = _corrected(sides, layers, second_moments, problem, run, train)
    if not whitened:
      return sides, {}
    stack, n = rows_lib.stacked(train, batch_size), rows_lib.count(train)
    total = two_sided.fisher(problem, run.params, stack, key, 'data', sides)
    return sides, trees.scaled(1 / n, total)

  def prepare(problem, run, train, queries, key, fitted=None):
    sides, system = fit(problem, run, train, key) if fitted is None else fitted
    batch = rows_lib.whole(queries)
    x = two_sided.gradients(problem, problem.measure, run.params, batch, sides)
    roots, used = {}, jnp.zeros(())
    if whitened:
      inverse_lib.check_damping(damping)
      if mix:
        of_queries = two_sided.autocorrelation(x)
        shared = trees.scaled(mix / len(batch.mask), of_queries)
        system = trees.add(trees.scaled(1 - mix, system), shared)
      roots, used = _roots(system, damping)
    x = _whitened(x, roots)
    norms = jnp.sqrt(_squares(x))
    solution = inverse_lib.closed_form(norms, used)
    solution = solution._replace(x=(), diverged=~jnp.isfinite(norms))
    unit = {name: _ratio(v, norms[:, None]) for name, v in x.items()}
    return Prepared((sides, roots, unit), solution)

  def score(problem, run, prepared, batch):
    sides, roots, unit = prepared.state
    x = two_sided.gradients(problem, problem.loss, run.params, batch, sides)
    x = _whitened(x, roots)
    dot = lambda v, w: jnp.einsum('...bd,...qd->...bq', v, w)
    dots = jnp.stack([_summed(dot(x[name], unit[name])) for name in x]).sum(0)
    return -_ratio(dots, jnp.sqrt(_squares(x))[:, None])

  return Method(
    prepare, score, unit='none', fit=fit, solve_only=('damping', 'mix')
  )


def _corrected(sides, layers, kind, problem, run, train):
  """The sides, with 1/√v in them."""
  if kind is None:
    return sides
  if run.second_moments is None:
    raise ValueError(
      f'trackstar with second_moments={kind!r} reads those of Adam, and this run'
      ' has none: train with optax.adam or adamw and checkpoints=C, give a Run'
      ' with `second_moments`, or give second_moments=None'
    )
  last = jax.tree.map(lambda v: v[-1], run.second_moments)
  if kind == 'whole':
    weights = jax.tree.map(lambda v: factored.raised(v, -0.5), last)
    return {
      name: side._replace(weights=layers_lib.matrix(layers[name], weights))
      for name, side in sides.items()
    }
  example = rows_lib.take(train, 0)
  scales = factored.powers(problem, run.params, example, last, -0.5)
  return {
    name: two_sided.Sides(
      _times(scales[name][0], side.inputs),
      _times(scales[name][1], side.outputs),
    )
    for name, side in sides.items()
  }


def _times(scale, basis):
  """D U; a basis None is the identity."""
  size = scale.shape[-1]
  return scale[..., None] * (jnp.eye(size) if basis is None else basis)


def _roots(system, damping):
  """(W of each layer with W Wᵀ = (R + damping)⁻¹, the mean damping).

  Cosines are the same with any such W. A direction that no gradient has, and no
  damping, counts for nothing.
  """
  roots, shifts = {}, []
  for name, (values, vectors) in parallel.dealt(ekfac.eigh, system).items():
    values = jnp.maximum(values, 0)
    shift = 0.1 * values.mean(-1) if damping == 'heuristic' else damping
    shift = jnp.broadcast_to(shift, values.shape[:-1])
    power = factored.raised(values + shift[..., None], -0.5)
    roots[name] = vectors * power[..., None, :]
    shifts.append(shift.mean())
  return roots, jnp.stack(shifts).mean()


def _whitened(x, roots):
  """φ of γ [*stack, B, D]; no roots: γ itself."""
  return {n: v @ roots[n] if n in roots else v for n, v in x.items()}


def _squares(x):
  """‖φ‖² over all layers, [B]."""
  of_layers = [_summed(jnp.sum(v**2, -1, keepdims=True)) for v in x.values()]
  return jnp.stack(of_layers).sum(0)[:, 0]


def _summed(x):
  """The sum over a stack's entries of [*stack, B, C]."""
  return x.reshape(-1, *x.shape[-2:]).sum(0)


def _ratio(x, size):
  return jnp.where(size == 0, 0.0, x / jnp.where(size == 0, 1.0, size))
