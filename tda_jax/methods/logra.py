"""LoGra: influence in a small subspace of every layer's gradients.

Choe et al. 2024 ("What is Your Data Worth to GPT?", §3.1,
https://arxiv.org/abs/2405.13954). The gradient Σ_s a_s δ_sᵀ of a layer is only
used in two bases with orthonormal columns, U [I, r] and V [O, r']:

  γ = Σ_s (Uᵀ a_s)(Vᵀ δ_s)ᵀ   [r, r'], never the I x O gradient;
  score[i, q] = −(1/N) Σ_layers γ_q · (F + l2 + damping)⁻¹ γ_i,

F the mean of γ γᵀ over training rows, per layer and entry of its stack: the
Fisher restricted to span(U ⊗ V), so that with r = I and r' = O the score is
influence with the block Fisher itself.
"""

import jax
import jax.numpy as jnp
from jax.scipy import linalg

from tda_jax import compiler, trees
from tda_jax.curvature import ekfac, gram, two_sided
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.layers import taps
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept


@kept
def logra(
  damping: inverse_lib.Damping = 'heuristic',
  *,
  rank: tuple[int, int] = (16, 16),
  basis: str = 'pca',
  labels: str = 'sampled',
  batch_size: int = 256,
) -> Method:
  """LoGra of one model; positive supports, in the measure's unit.

  Args:
    damping: a number, or 'heuristic': 0.1 · mean eigenvalue of each F.
    rank: (r, r') of every layer; a side that is no larger is taken whole.
    basis: 'pca', the leading eigenvectors of KFAC's two factors, or 'random'.
      'pca' refuses layers that are applied more than once.
    labels: of the Fisher: 'sampled' from the model, or 'data', those of the rows
      (the paper's choice; the empirical Fisher).

  Raises:
    ValueError: unknown `basis` or `labels`; a rank below 1; damping and l2 both
      0; F is singular to rounding (the solver diverged).
  """
  _check_settings(rank, basis, labels)

  def fit(problem, run, train, key):
    """(bases, Fisher in them) of each layer."""
    params, stack = run.params, rows_lib.stacked(train, batch_size)
    if basis == 'pca':
      bases = _leading(problem, params, stack, key, labels, rank)
    else:
      layers = two_sided.layers_of(problem, params, train)
      bases = two_sided.random(layers, key, rank)
    with jax.default_matmul_precision('highest'):
      total = two_sided.fisher(
        problem, params, stack, jax.random.fold_in(key, 2), labels, bases
      )
    n = rows_lib.count(train)
    return bases, {name: block / n for name, block in total.items()}

  def prepare(problem, run, train, queries, key, fitted=None):
    inverse_lib.check_damping(damping, problem.l2)
    fitted = fit(problem, run, train, key) if fitted is None else fitted
    bases, fisher = fitted
    with jax.default_matmul_precision('highest'):
      of_queries = two_sided.gradients(
        problem,
        problem.measure,
        run.params,
        rows_lib.whole(queries),
        bases,
      )
    x, shifts = {}, []
    for name, block in fisher.items():
      x[name], shift = _solved(block, of_queries[name], damping, problem.l2)
      shifts.append(shift)
    finite = jnp.stack([_finite(one) for one in x.values()])
    solution = inverse_lib.closed_form(finite.T, jnp.stack(shifts).mean())
    solution = solution._replace(x=(), diverged=~finite.all(0))
    scaled = trees.scaled(-1 / rows_lib.count(train), x)
    return Prepared((bases, scaled), solution)

  def score(problem, run, prepared, batch):
    bases, x = prepared.state
    aux = {name: (bases[name], x[name]) for name in x}
    with jax.default_matmul_precision('highest'):
      return taps.collect_rows(
        _products, problem, problem.loss, run.params, batch, aux, total=True
      )

  return Method(
    prepare, score, fit=fit, solve_only=('damping',), vectors=_vectors
  )


def _check_settings(rank, basis, labels):
  if basis not in ('pca', 'random'):
    raise ValueError(f"basis={basis!r} is unknown: use 'pca' or 'random'")
  if labels not in ('sampled', 'data'):
    raise ValueError(f"labels={labels!r} is unknown: use 'sampled' or 'data'")
  two_sided.check_rank(rank)


def _vectors(problem, run, prepared, batch):
  """U X Vᵀ of every layer; see `Method.vectors`."""
  bases, x = prepared.state
  layers = two_sided.layers_of(problem, run.params, batch.examples)
  matrices = {n: two_sided.lifted(layers[n], x[n], bases[n]) for n in x}
  example = rows_lib.take(batch.examples, 0)
  return run.params, gram.vectors_of(problem, run.params, example, matrices)


def _finite(x):
  """Which queries have no value that is not finite, [Q], of x [*stack, Q, ...]."""
  return jnp.isfinite(x).all(-1).reshape(-1, x.shape[-2]).all(0)


def _products(layer, a, g, aux):
  """γ_b · x_q, [B, Q]."""
  bases, x = aux
  return two_sided.projected(layer, a, g, bases) @ x.T


def _solved(block, vectors, damping, l2):
  """((F + l2 + damping)⁻¹ v [*stack, Q, D], the mean damping)."""
  size = block.shape[-1]
  shift = jnp.full(block.shape[:-2], damping if damping != 'heuristic' else 0.0)
  if damping == 'heuristic':
    shift = 0.1 * jnp.trace(block, axis1=-2, axis2=-1) / size
  diagonal = (shift + l2)[..., None, None] * jnp.eye(size)
  solve = compiler.one_by_one(
    lambda block, v: linalg.cho_solve((jnp.linalg.cholesky(block), True), v.T).T
  )
  return solve(block + diagonal, vectors), shift.mean()


def _leading(problem, params, stack, key, labels, rank):
  """Eigenvectors of KFAC's factors with the largest eigenvalues."""
  blocks = ekfac.fit(problem, params, stack, key, kind='kfac', labels=labels)
  return {
    name: two_sided.Sides(
      _columns(block.inputs, block.eigenvalues.sum(-1), rank[0]),
      _columns(block.outputs, block.eigenvalues.sum(-2), rank[1]),
    )
    for name, block in blocks.items()
  }


def _columns(basis, values, rank):
  """The eigenvectors of the largest eigenvalues.

  Args:
    basis: ascending eigenvectors; None: the identity, with `values` in any order.
  """
  size = values.shape[-1]
  if rank >= size:
    return None
  if basis is not None:
    return basis[..., -rank:]
  unit = jax.nn.one_hot(jax.lax.top_k(values, rank)[1], size)
  return jnp.swapaxes(unit, -1, -2)
