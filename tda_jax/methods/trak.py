"""TRAK: influence of a linear model on randomly projected gradients.

Park et al. 2023 ("TRAK: Attributing Model Behavior at Scale", §3,
https://arxiv.org/abs/2303.14186). The measure f is taken as linear in the parameters, with features φ = Rᵀ ∇f, R a random
projection (`curvature.projections`), and the loss as a function ℓ of f:

  score[i, q] = (1/N) φ_qᵀ (K + ridge·I)⁻¹ φ_i · Q_i,
  K = (1/N) Σ_i W_i φ_i φ_iᵀ,   Q_i = −ℓ'(f_i),   W_i = 1 or ℓ''(f_i).

The paper's case is the softmax and the margin f = log p/(1 − p): then ℓ(f) =
log(1 + exp(−f)) and Q_i = 1 − p_i; it leaves the weights W_i out.
"""

import functools
from typing import Any, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tda_jax import sources, trees
from tda_jax.curvature import projections
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Factor, Method, Prepared
from tda_jax.settings import kept

ROWS_AT_ONCE = 256


@kept
def trak(projection_dim: int = 512, **kwargs: Any) -> Method:
  """TRAK of one model; positive supports, in the measure's unit.

  Args:
    projection_dim, kwargs: see `trak_kernel`.

  Raises:
    ValueError: see `trak_kernel` and `trak_slopes`.
  """
  kernel, slopes = trak_kernel(projection_dim, **kwargs), trak_slopes()

  def prepare(problem, run, train, queries, key, fitted=None):
    _check_slope(problem, run.params, train)
    of_kernel = cast(Any, kernel.prepare)
    return of_kernel(problem, run, train, queries, key, fitted)

  def score(problem, run, prepared, batch):
    slope = slopes.score(problem, run, Prepared(jnp.ones(1)), batch)  # [B, 1]
    return kernel.score(problem, run, prepared, batch) * slope

  def self_influence(problem, run, train, key):
    _check_slope(problem, run.params, train)
    slope = lambda batch: _slopes(problem, run.params, batch)[0]
    q = -rows_lib.each(slope, train, ROWS_AT_ONCE)
    return kernel.self_influence(problem, run, train, key) * q

  factors = (Factor('slopes', slopes, False), Factor('kernel', kernel))
  return Method(
    prepare,
    score,
    hint=kernel.hint,
    self_influence=self_influence,
    factors=factors,
    fit=kernel.fit,
    solve_only=kernel.solve_only,
  )


@kept
def trak_slopes() -> Method:
  """TRAK's second factor alone, Q_i: the same for all queries.

  It is computed in the space of the outputs z as −(∂loss/∂z · ∂f/∂z) / |∂f/∂z|²,
  which is −ℓ'(f_i) wherever the loss is a function of the measure: 1 − p_i for
  classification, 2|error| for regression on one target, 1 for a measure that is
  minus the loss.

  Raises:
    ValueError: the loss is not a function of the measure.
  """

  def prepare(problem, run, train, queries, key):
    del key
    _check_slope(problem, run.params, train)
    return Prepared(jnp.ones(rows_lib.count(queries)))

  def score(problem, run, prepared, batch):
    slopes = _slopes(problem, run.params, batch)[0]
    return -slopes[:, None] * prepared.state

  return Method(prepare, score, unit='none')


@kept
def trak_kernel(
  projection_dim: int = 512,
  *,
  projection: str = 'factored',
  ridge: float = 0.0,
  weighted: bool = False,
  batch_size: int = 256,
) -> Method:
  """TRAK's first factor alone, (1/N) φ_qᵀ(K + ridge)⁻¹φ_i.

  The product of the means of scores of `trak_kernel` and of `trak_slopes` over
  any members is TRAK of that ensemble.

  Args:
    projection_dim: k, the numbers that a gradient is projected to.
    projection: 'factored' (fast) or 'dense'; see `curvature.projections`.
    ridge: added to the mean kernel K, so ridge·N to the ΦᵀΦ of the paper. The
      problem's l2 is not added.
    weighted: whether W_i = ℓ''(f_i), as in Newton's method: K is then the
      projected curvature of the loss, and scores keep the scale of a removal
      also where ℓ'' is not about 1 (it is 2 in regression). False: W_i = 1, as
      in the paper.
    batch_size: rows projected at once for K.

  Raises:
    ValueError: the kernel is singular, which it is for k > N without a ridge.
  """

  how = {'size': projection_dim, 'projection': projection}
  features_of = functools.partial(_features, **how)

  def fit(problem, run, train, key):
    """K [k, k]."""

    def gram(batch):
      features = features_of(problem, run, batch, key)
      return _gram(problem, run, batch, features, weighted)

    total = rows_lib.total(gram, rows_lib.stacked(train, batch_size))
    return total / rows_lib.count(train)

  def solved(kernel, problem, run, train, vectors, key):
    """(features φ [V, k] of the rows `vectors`, (K + ridge)⁻¹ φ / N)."""
    n = rows_lib.count(train)
    _check_ridge(ridge, projection_dim, n)
    project = lambda batch: features_of(problem, run, batch, key)
    features = rows_lib.each(project, vectors, batch_size)
    x = _solved(kernel + ridge * jnp.eye(projection_dim), features)
    return features, x / n

  def prepare(problem, run, train, queries, key, fitted=None):
    kernel = fit(problem, run, train, key) if fitted is None else fitted
    _, x = solved(kernel, problem, run, train, queries, key)
    solution = inverse_lib.closed_form(x, ridge)
    diverged = ~jnp.isfinite(x).all(-1)
    return Prepared((x, key), solution._replace(x=(), diverged=diverged))

  def self_influence(problem, run, train, key):
    kernel = fit(problem, run, train, key)
    features, x = solved(kernel, problem, run, train, train, key)
    return jnp.einsum('nk,nk->n', features, x, precision='highest')

  def score(problem, run, prepared, batch):
    x, key = prepared.state
    features = features_of(problem, run, batch, key)
    return jnp.matmul(features, x.T, precision='highest')

  return Method(
    prepare,
    score,
    unit='none',
    hint='raise ridge or lower projection_dim',
    self_influence=self_influence,
    fit=fit,
    solve_only=('ridge',),
  )


def _features(problem, run, batch, key, size, projection):
  """φ [B, k] of the rows of a batch."""
  of, params = problem.measure, run.params
  return projections.project(of, problem, params, batch, key, size, projection)


def _gram(problem, run, batch, features, weighted):
  """Σ_b W_b φ_b φ_bᵀ, [k, k]."""
  weighed = features
  if weighted:
    weighed = _slopes(problem, run.params, batch)[1][:, None] * features
  return jnp.matmul(features.T, weighed, precision='highest')


@kept
def trak_ensemble(projection_dim: int = 512, **kwargs: Any) -> Method:
  """TRAK of E models: the mean of (1/N) φ_qᵀ(K + ridge)⁻¹φ_i times that of Q_i.

  Each factor is averaged over members, as in the paper (`ensemble(trak())`
  averages their products), and every member has its own projection. The run has
  a leading member axis.

  Args:
    projection_dim, kwargs: see `trak_kernel`.
  """
  # Prepared as the ensemble of `trak`, scored by the ensembles of its factors.
  one = trak(projection_dim, **kwargs)
  kernel = method_lib.ensemble(trak_kernel(projection_dim, **kwargs))
  slopes = method_lib.ensemble(trak_slopes())

  def score(problem, run, prepared, batch):
    ones = Prepared(jnp.ones((trees.count(run.params), 1)))
    slope = slopes.score(problem, run, ones, batch)  # [B, 1], mean over members
    return kernel.score(problem, run, prepared, batch) * slope

  return method_lib.ensemble(one)._replace(score=score, self_influence=None)


def _slopes(problem, params, batch):
  """(ℓ', ℓ'') of each row, [B] each."""
  outputs = jax.vmap(problem.outputs, (None, 0))(params, batch.examples)
  of_row = functools.partial(_slope, problem)
  return jax.vmap(of_row)(outputs, batch.examples)


def _slope(problem, outputs, example):
  """(ℓ', ℓ'') of loss = ℓ(measure), along the measure's gradient in outputs."""
  gradient = jax.grad(problem.measure)(outputs, example)
  square = jnp.vdot(gradient, gradient)
  unit = gradient * jnp.where(  # changes the measure at rate 1
    square > 0, 1 / jnp.where(square > 0, square, 1), 0
  )
  first = jnp.vdot(unit, jax.grad(problem.loss)(outputs, example))

  def curved(z):  # ∂²loss − ℓ' ∂²f = ℓ'' ∂f ∂fᵀ
    return problem.loss(z, example) - first * problem.measure(z, example)

  bent = jax.jvp(jax.grad(curved), (outputs,), (unit,))[1]
  return first, jnp.vdot(unit, bent)


def _check_ridge(ridge, size, n):
  if isinstance(ridge, jax.core.Tracer):
    return  # it is above 0 (`settings.TRACED`)
  if size > n and ridge == 0:
    raise ValueError(
      f'projection_dim={size} is above the {n} training rows, so that the'
      ' kernel is singular: lower projection_dim, or give a ridge above 0'
    )


def _check_slope(problem, params, train):
  """Raises unless ∂loss and ∂measure are parallel at some outputs."""
  example = sources.example(train)
  outputs = jax.eval_shape(problem.outputs, params, example)
  with jax.ensure_compile_time_eval():  # probed: no value of the data is read
    z = jax.random.normal(jax.random.key(0), outputs.shape, outputs.dtype)
    example = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), example)
    loss = jax.grad(problem.loss)(z, example).ravel()
    measure = jax.grad(problem.measure)(z, example).ravel()
    lengths = jnp.linalg.norm(loss) * jnp.linalg.norm(measure)
    apart = float(lengths) - abs(float(loss @ measure))
    parallel = apart <= 1e-3 * float(lengths)
  if not parallel:
    raise ValueError(
      'trak needs a loss that is a function of the measure, and their gradients'
      f' in the {z.size} outputs are not parallel (regression on several targets'
      ' is such a case): give the problem a measure that its loss depends on'
      ' alone, or use influence'
    )


def _solved(kernel, vectors):
  """K⁻¹ v [Q, k], on the host in float64; NaN where K is singular."""
  return jax.pure_callback(
    _host_solved,
    jax.ShapeDtypeStruct(vectors.shape, vectors.dtype),
    kernel,
    vectors,
    vmap_method='sequential',
  )


def _host_solved(kernel, vectors):
  from scipy import linalg

  nothing = np.full_like(vectors, np.nan)
  wide = np.asarray(kernel, np.float64)
  try:
    factor = linalg.cho_factor(wide, lower=True)
  except (linalg.LinAlgError, ValueError):  # not definite; not finite
    return nothing
  size = np.linalg.norm(wide, 1)
  dpocon = linalg.lapack.dpocon  # pyright: ignore[reportAttributeAccessIssue]  # made at runtime
  condition = dpocon(factor[0], size, uplo='L')[0]
  if condition < np.finfo(kernel.dtype).eps:  # all digits are rounding
    return nothing
  vectors = np.asarray(vectors)
  return linalg.cho_solve(factor, vectors.T).T.astype(vectors.dtype)
