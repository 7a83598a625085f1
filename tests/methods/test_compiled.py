"""Programs are compiled once for all dampings and step sizes, and change nothing."""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import settings, trees
from tda_jax.inverses import ekfac as ekfac_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.descent import descent
from tda_jax.methods import registry, trak

pytestmark = pytest.mark.filterwarnings('ignore::tda_jax.door.NotConverged')
KEY = jax.random.key(3)
short = functools.partial(dict, steps=12, batch_size=4)
# factory -> number -> a method of it; every number that is traced takes it.
SOLVERS = {
  tda.ekfac: lambda x: tda.ekfac(x, labels='data'),
  tda.kfac: tda.kfac,
  tda.diagonal: tda.diagonal,
  tda.datainf: tda.datainf,
  tda.dense: tda.dense,
  tda.exact: tda.exact,
  tda.arnoldi: lambda x: tda.arnoldi(x, rank=5, steps=20),
  tda.cg: lambda x: tda.cg(x, precondition=tda.ekfac(2 * x), tolerance=x / 50),
  tda.neumann: lambda x: tda.neumann(x, step_size=x, tolerance=x, **short()),
  tda.lissa: lambda x: tda.lissa(x, scale=5 + x, **short()),
  tda.astra: lambda x: tda.astra(x, step_per_damping=x, **short(rounds=2)),
  descent: lambda x: descent(x, step_size=x, momentum=0.5, **short()),
  inverse_lib.with_residual: lambda x: inverse_lib.with_residual(tda.exact(x)),
  ekfac_lib.projected: lambda x: ekfac_lib.projected(tda.cg(x), 0.01),
}
METHODS = {
  tda.relatif: lambda x: tda.relatif(tda.ekfac(x)),
  tda.laplace_influence: lambda x: tda.laplace_influence(
    tda.ekfac(x), draws=5, temperature=x
  ),
  tda.bayesian_influence: lambda x: tda.bayesian_influence(
    x,
    chains=2,
    draws=3,
    steps=1,
    burn_in=1,
    batch_size=4,
    step_size=x / 10,
    temperature=x,
  ),
  tda.displaced_influence: lambda x: tda.displaced_influence(tda.exact(x)),
  tda.ensemble: lambda x: tda.ensemble(tda.influence(tda.cg(x))),
  tda.dda: tda.dda,
  tda.contrast_pair: lambda x: tda.contrast_pair(2, 0.1, beta=x),
  tda.logra: lambda x: tda.logra(x, rank=(3, 2)),
  tda.trackstar: lambda x: tda.trackstar(x, rank=(3, 2)),
  tda.trak: lambda x: tda.trak(16, ridge=x),  # more features than rows
  trak.trak_kernel: lambda x: trak.trak_kernel(8, ridge=x),
  trak.trak_ensemble: lambda x: trak.trak_ensemble(8, ridge=x),
}
SOLVING = {
  f: lambda x, make=make: tda.influence(make(x)) for f, make in SOLVERS.items()
}
MAKE = {f.__name__: make for f, make in {**SOLVING, **METHODS}.items()}
FIRST = ('cg', 'lissa')


def some(names):
  slow = pytest.mark.slow
  return [n if n in FIRST else pytest.param(n, marks=slow) for n in names]


def counted():
  """(a tiny task, a list that grows whenever its model is traced)."""
  t, traces = tiny.classification(), []

  def outputs(params, example):
    traces.append(1)
    return t.problem.outputs(params, example)

  return t._replace(problem=t.problem._replace(outputs=outputs)), traces


def tuned(t):
  """The task of a model with checkpoints and a base; queries are pairs of outputs."""
  one, first = t.problem, t.queries
  pair = lambda f: (
    lambda a, e: f(a, e) if np.ndim(e['y']) == 0 else jax.vmap(f, (0, 0))(a, e)
  )
  of_params = lambda p, e: jax.vmap(one.outputs, (None, 0))(p, e)
  outputs = lambda p, e: (one.outputs if np.ndim(e['y']) == 0 else of_params)(
    p, e
  )
  measure = lambda o, e: jnp.sum(
    jnp.array([1, -1])[: o.ndim] * pair(one.measure)(o, e)
  )
  queries = {n: np.stack([x[:2], x[2:]], 1) for n, x in first.items()}
  problem = one._replace(
    outputs=outputs, measure=measure, check=lambda *_: None
  )
  run = tiny.run(t.params, 2)._replace(base=trees.scaled(-0.5, t.params))
  return t._replace(problem=problem, params=run, queries=queries)


def attribute(method, t, **kwargs):
  return tda.attribute(
    method, t.problem, t.params, t.train, t.queries, key=KEY, **kwargs
  )


@pytest.mark.parametrize('name', some(MAKE))
def test_another_number_compiles_nothing_and_scores_as_a_constant(name):
  t, traces = counted()
  if name in ('dda', 'contrast_pair'):
    t = tuned(t)
  if MAKE[name](0.1).members:
    members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), t.params)
    t = t._replace(params=members)
  first = attribute(MAKE[name](0.1), t)
  before = len(traces)
  found = attribute(MAKE[name](0.2), t)
  checks = 1 if MAKE[name](0.1).members else 0  # the door's look at the shapes
  assert len(traces) - before == checks
  # What is not known to be equal to others is compiled with its numbers.
  constant = MAKE[name](0.2)._replace(settings=None)
  want = attribute(constant, t)
  assert len(traces) > before + 2 * checks and found.dtype == want.dtype
  largest = np.abs(want).max()
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6 * largest)
  assert np.abs(first - want).max() > 1e-3 * largest


def test_every_factory_with_such_numbers_is_here():
  assert settings.TRACED <= set(settings.RULES)  # by which they are from 0
  here = {**SOLVERS, **METHODS}
  for factory in (*registry.INVERSES.values(), *registry.METHODS.values()):
    if settings.TRACED & set(inspect.signature(factory).parameters):
      assert factory in here, factory


def test_no_verb_compiles_again(tmp_path):
  t, traces = counted()
  given = (t.problem, t.params, t.train)

  def all_verbs(damping, step):
    solver = tda.neumann(damping, step_size=step, **short())
    for method in (tda.influence(solver), tda.influence(tda.kfac(damping))):
      folder = tmp_path / f'{damping}{method.fits_as.settings.data[0][1]}'
      tda.score(method, *given, t.queries, folder, key=KEY, progress=False)
      tda.top_k(method, *given, t.queries, 3, key=KEY)
      tda.self_influence(method, *given, key=KEY)
      attribute(method, t, fitted=tda.fit(method, *given, key=KEY))
      stored = json.loads((folder / '0' / 'facts.json').read_text())
      np.testing.assert_allclose(stored['damping'], damping, rtol=1e-6)

  all_verbs(0.1, 0.2)
  before = len(traces)
  all_verbs(0.3, 0.1)
  assert len(traces) == before


def test_a_number_that_is_refused_is_so_after_one_that_is_not():
  t, traces = counted()
  attribute(tda.influence(tda.datainf(0.1)), t)
  with pytest.raises(ValueError, match='damping=0 leaves a singular curvature'):
    attribute(tda.influence(tda.datainf(0)), t)
  before = len(traces)
  attribute(tda.influence(tda.datainf(1)), t)
  assert len(traces) == before  # 1 and 1.0 are equal numbers
  found = attribute(tda.influence(tda.datainf('heuristic')), t)
  assert len(traces) > before and np.isfinite(found).all()


def test_numbers_apart_and_together():
  method = MAKE['cg'](0.1)
  first, numbers = settings.apart(method)
  assert numbers == (0.1, 0.2, 0.002)  # in the order of the arguments
  assert settings.apart(MAKE['cg'](0.3))[0] is first
  made = settings.with_numbers(first, (1.0, 2.0, 0.5))
  told = settings.readable(settings.of(made).data)['inverse']
  assert (told['damping'], told['tolerance']) == (1.0, 0.5)
  assert told['precondition']['damping'] == 2.0
  assert settings.of(method).data != settings.of(made).data
  for other in (0, 'heuristic'):
    assert settings.apart(tda.influence(tda.cg(other)))[1] == (1e-3,)
  unknown = method._replace(settings=None)
  assert settings.apart(unknown) == (unknown, ())
