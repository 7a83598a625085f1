"""DDA and contrast pairs against dense formulas, and against what a step does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import problem as problem_lib
from tda_jax import sources, trees
from tda_jax.methods import method as method_lib
from tda_jax.methods import registry
from tda_jax.models import lora
from tda_jax.storage import fingerprint

C, BETA = 3, 0.4
T, V, D = 4, 6, 4


@functools.cache
def task():
  """(a tiny problem, a run of C checkpoints with a base)."""
  t = tiny.classification()
  run = tiny.run(t.params, C)
  base = tiny.mlp_init((5, 4, 3), jax.random.key(7))
  return t, run._replace(base=base)


def attribute(method, run=None, t=None, **kwargs):
  own, own_run = task()
  t, run = t or own, own_run if run is None else run
  return tda.attribute(method, t.problem, run, t.train, t.queries, **kwargs)


@functools.cache
def gradients():
  """Of measures [C + 1, Q, P] and losses [C + 1, N, P] in float64; base last."""
  t, run = task()
  points = [trees.row(run.checkpoints, c) for c in range(C)] + [run.base]
  at = [t._replace(params=params) for params in points]
  of = lambda f, rows: np.stack([tiny.gradients(f, p, rows) for p in at])
  return of(t.problem.measure, t.queries), of(t.problem.loss, t.train)


def dense(kind, beta):
  m, g = gradients()
  n = g.shape[1]
  if kind == 'final':
    m = np.broadcast_to(m[C - 1], m.shape)  # θ_C are the final parameters
  if kind == 'rows':
    g = g / np.linalg.norm(g, axis=-1, keepdims=True)
  one = -np.einsum('cnp,cqp->cnq', g, m) / n
  if kind == 'scores':
    one = (one - one.mean(1, keepdims=True)) / one.std(1, keepdims=True)
  if kind == 'last':
    return one[C - 1] - beta * one[C]
  return one[:C].mean(0) - beta * one[C]


KINDS = {
  'own': {},
  'final': {'query': 'final'},
  'rows': {'normalised': 'rows'},
  'scores': {'normalised': 'scores'},
  'last': {'denoise': False},
}


@pytest.mark.parametrize('kind', KINDS)
def test_scores_equal_the_dense_formula(kind):
  got = attribute(tda.dda(BETA, **KINDS[kind]))
  want, plain = dense(kind, BETA), dense(kind, 0.0)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  assert np.abs(want - plain).max() > 0.05 * np.abs(plain).max()


def test_without_beta_it_is_tracin_with_equal_weights():
  _, run = task()
  equal = run._replace(
    learning_rates=np.full(C, 0.1), steps=20 * (1 + np.arange(C))
  )
  want = attribute(tda.tracin(), equal) / (C * 0.1 * 20)
  got = attribute(tda.dda(), run._replace(base=None))
  np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


def test_with_an_inverse_it_is_the_mean_of_influence_functions():
  t, run = task()
  exact = tda.exact(0.1)
  points = [trees.row(run.checkpoints, c) for c in range(C)] + [run.base]
  each = np.stack([attribute(tda.influence(exact), p) for p in points])
  want = each[:C].mean(0) - BETA * each[C]
  method = tda.dda(BETA, inverse=exact)
  got = attribute(method)
  np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
  fitted = tda.fit(method, t.problem, run, t.train)
  again = attribute(method, fitted=fitted)
  np.testing.assert_allclose(again, got, atol=1e-5 * np.abs(got).max())


def test_self_influence_is_that_of_rows_as_queries():
  t, run = task()
  method = tda.dda(BETA)
  found = tda.self_influence(method, t.problem, run, t.train)
  want = np.diag(attribute(method, t=t._replace(queries=t.train)))
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('kind', ['own', 'scores'])
def test_rows_of_a_source_and_of_batches_are_scored_alike(kind, tmp_path):
  t, run = task()

  class Rows:
    def __len__(self):
      return len(t.train['y'])

    def __getitem__(self, index):
      return {name: column[index] for name, column in t.train.items()}

  method = tda.dda(BETA, **KINDS[kind])
  want = attribute(method)
  got = tda.attribute(method, t.problem, run, Rows(), t.queries, batch_size=4)
  assert sources.of(Rows(), lambda x: x) is not None
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  if kind == 'own':
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], run._asdict())
    runs = run._replace(
      **{n: one[n] for n in ('params', 'checkpoints', 'base')},
      keys=jnp.zeros((1, 2), jnp.uint32),
    )
    stored = tda.score(
      method, t.problem, runs, t.train, t.queries, tmp_path, progress=False
    )
    np.testing.assert_allclose(stored[0], want, atol=1e-5 * np.abs(want).max())
    other = runs._replace(base=trees.scaled(2.0, runs.base))
    with pytest.raises(ValueError, match='base'):
      tda.score(
        method, t.problem, other, t.train, t.queries, tmp_path, progress=False
      )


@pytest.mark.parametrize(
  'settings',
  [{}, {'normalised': 'scores'}, {'inverse': tda.ekfac(1e-2)}],
  ids=['identity', 'scores', 'ekfac'],
)
def test_what_is_prepared_takes_no_memory_for_each_row(settings):
  t, run = task()
  method = tda.dda(0.4, **settings)

  def temporary(n):
    of_n = lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
    prepare = functools.partial(method_lib.prepare, method, t.problem, run)
    call = lambda train: prepare(train, t.queries, jax.random.key(0))
    compiled = jax.jit(call).lower(jax.tree.map(of_n, t.train)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = 512, 32768
  grown = temporary(many) - temporary(few)
  assert grown < 8 * (many - few), grown  # a row's number and mask, no more


def test_an_ensemble_has_a_base_for_each_member():
  t, run = task()
  stack = lambda x: jnp.stack([x, 0.5 * jnp.asarray(x)])
  fields = ('params', 'checkpoints', 'base')
  both = run._replace(
    **{n: jax.tree.map(stack, getattr(run, n)) for n in fields}
  )
  half = run._replace(**{n: trees.scaled(0.5, getattr(run, n)) for n in fields})
  got = attribute(tda.ensemble(tda.dda(BETA)), both)
  want = (attribute(tda.dda(BETA)) + attribute(tda.dda(BETA), half)) / 2
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('denoise', [True, False])
def test_only_some_parameters_of_base_and_checkpoints(denoise):
  t, run = task()
  part = t._replace(problem=t.problem._replace(only=('layer1/w',)))
  got = attribute(tda.dda(BETA, denoise=denoise), t=part)
  names = trees.names(t.params)
  sizes = [x.size for x in jax.tree.leaves(t.params)]
  kept = np.repeat([name == 'layer1/w' for name in names], sizes)
  m, g = gradients()
  one = -np.einsum('cnp,cqp->cnq', g[..., kept], m[..., kept]) / len(got)
  mean = one[:C].mean(0) if denoise else one[C - 1]
  want = mean - BETA * one[C]
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_step_on_a_supporter_raises_the_measure():
  t, run = task()
  scores = attribute(tda.dda(denoise=False))
  measures = jax.jit(lambda p: problem_lib.measures(t.problem, p, t.queries))
  gradient = jax.jit(
    lambda i: jax.grad(problem_lib.loss_of, 1)(
      t.problem, run.params, trees.row(jax.tree.map(jnp.asarray, t.train), i)
    )
  )
  before, rate = measures(run.params), 1e-3
  for i in range(len(scores)):
    after = measures(trees.add(run.params, gradient(i), -rate))
    moved = np.asarray(after - before) / rate / len(scores)
    np.testing.assert_allclose(
      moved, scores[i], atol=0.02 * np.abs(scores).max()
    )


# --- language models -----------------------------------------------------------


def logits(params, ids):
  h = params['embed'][ids]
  before = jnp.cumsum(h, 0) / (1 + jnp.arange(len(ids)))[:, None]
  return (h + jnp.tanh(before @ params['layer'])) @ params['head']


PROBLEM = tda.language_modeling(jax.vmap(logits, (None, 0)))


@functools.cache
def language():
  """(a tiny language model with contrasts for queries, its run)."""
  rng = np.random.default_rng(0)
  shapes = {'embed': (V, D), 'layer': (D, D), 'head': (D, V)}
  params, base = (
    {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    for _ in range(2)
  )
  ids = rng.integers(0, V, (13, T + 1))
  rows = {'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': np.ones((13, T))}
  train, left, right = (
    {n: x[s] for n, x in rows.items()}
    for s in (slice(7), slice(7, 10), slice(10, 13))
  )
  queries = {n: np.stack([left[n], right[n]], 1) for n in rows}
  run = tiny.run(params, C)._replace(base=base)
  return tiny.Tiny(PROBLEM, params, train, queries), run


def test_tokens_add_up_to_the_rows():
  t, run = language()
  for method in (tda.dda(BETA), tda.dda(BETA, query='final')):
    given = (method, t.problem, run, t.train, t.queries)
    tokens, rows = tda.token_scores(*given), tda.attribute(*given)
    assert tokens.shape == (7, T, 3)
    np.testing.assert_allclose(
      tokens.sum(1), rows, atol=1e-5 * np.abs(rows).max()
    )
  with pytest.raises(ValueError, match='no one vector for each query'):
    tda.token_scores(tda.dda(normalised='rows'), *given[1:])


def test_contrasts_are_scored_to_disk(tmp_path):
  t, run = language()
  given = (tda.dda(BETA), t.problem, run, t.train, t.queries)
  stored = tda.score(*given, tmp_path, progress=False)
  want = tda.attribute(*given)
  np.testing.assert_allclose(stored[0], want, atol=1e-5 * np.abs(want).max())


def pair(**kwargs):
  t, run = language()
  method = tda.contrast_pair(**kwargs)
  return tda.attribute(method, t.problem, run, t.train, t.queries, batch_size=4)


@pytest.mark.parametrize('denoise', [True, False])
def test_a_pair_of_one_small_step_is_influence(denoise):
  t, run = language()
  rate = 1e-3
  want = tda.attribute(
    tda.dda(BETA, denoise=denoise), t.problem, run, t.train, t.queries
  )
  got = pair(steps=1, rate=rate, optimizer='sgd', beta=BETA, denoise=denoise)
  got = got / rate / len(t.train['ids'])
  np.testing.assert_allclose(got, want, atol=0.01 * np.abs(want).max())


def test_a_pooled_pair_is_nudged_by_all_queries():
  each = pair(steps=1, rate=1e-3, optimizer='sgd')
  pooled = pair(steps=1, rate=1e-3, optimizer='sgd', pooled=True)
  assert pooled.shape == each.shape
  np.testing.assert_array_equal(pooled, pooled[:, :1] + np.zeros((1, 3)))
  np.testing.assert_allclose(
    pooled[:, 0], each.mean(1), atol=0.01 * np.abs(each).max()
  )


def test_a_pair_of_adam_favours_the_wrong_output():
  t, run = language()
  wrong = {n: x[:, 0] for n, x in t.queries.items()}
  right = {n: x[:, 1] for n, x in t.queries.items()}
  method = tda.contrast_pair(steps=20, rate=1e-2)
  of = lambda rows: np.diag(
    tda.attribute(method, t.problem, run, rows, t.queries)
  )
  assert (of(wrong) > 0).all() and (of(right) < 0).all()


def test_adapters_that_are_off_are_the_base():
  t, _ = language()
  adapters = lora.init(jax.random.key(0), t.params, 2, ('layer',))
  tuned = {'layer': {**adapters['layer'], 'b': jnp.ones((2, D))}}
  off = lora.off(tuned)
  np.testing.assert_array_equal(
    lora.merge(t.params, off)['layer'], t.params['layer']
  )
  problem = lora.adapted(t.problem)
  run = tda.Run(tuned, base=off, frozen=t.params)
  of = lambda run, **kw: tda.attribute(
    tda.dda(denoise=False, **kw), problem, run, t.train, t.queries
  )
  want = of(run) - BETA * of(tda.Run(off, frozen=t.params))
  np.testing.assert_allclose(
    of(run, beta=BETA), want, atol=1e-5 * np.abs(want).max()
  )


# --- what is refused -----------------------------------------------------------


@pytest.mark.parametrize(
  'made, said',
  [
    (lambda: tda.dda(-1), 'beta=-1: give a finite number from 0'),
    (lambda: tda.dda(query='last'), "query='last' is unknown"),
    (lambda: tda.dda(normalised='all'), "normalised='all' is unknown"),
    (lambda: tda.dda(inverse=tda.ekfac), 'the inverse is the function ekfac'),
    (
      lambda: tda.dda(inverse=tda.exact(1.0), query='final'),
      "query='final' is the form without a curvature",
    ),
    (lambda: tda.contrast_pair(optimizer='lion'), "unknown optimizer 'lion'"),
    (lambda: tda.contrast_pair(rate=0), 'rate=0: give a number above 0'),
    (lambda: tda.contrast_pair(0), 'steps=0: give a whole number from 1'),
    (
      lambda: attribute(tda.dda(0.5), task()[1]._replace(base=None)),
      'dda .*subtracts what the base says, and this run has none',
    ),
    (
      lambda: attribute(tda.dda(), task()[1]._replace(checkpoints=None)),
      'dda follows a run by its checkpoints, and this one has none',
    ),
    (
      lambda: attribute(tda.contrast_pair()),
      'contrast_pair nudges to the wrong and to the right output',
    ),
    (
      lambda: attribute(
        tda.dda(),
        task()[1]._replace(base=tiny.mlp_init((5, 6, 3), jax.random.key(0))),
      ),
      r"the base of the run is another model: 'layer0/b' is \[6\] there and \[4\]",
    ),
    (
      lambda: attribute(
        tda.dda(),
        task()[1]._replace(base=tiny.mlp_init((5, 4, 4, 3), jax.random.key(0))),
      ),
      "'layer1/b' is .* there|'layer2/b' is .* there and absent",
    ),
  ],
)  # fmt: skip
def test_bad_input_is_one_sentence(made, said):
  with pytest.raises((ValueError, TypeError), match=said) as raised:
    made()
  assert '\n' not in str(raised.value)


def test_a_record_says_what_the_base_was():
  t, run = task()
  from tda_jax import door
  from tda_jax.methods import fitted

  entered = door.enter(tda.dda(), t.problem, run, t.train, t.queries)
  about = fitted.about_inputs(t.problem, entered)
  assert about['base'] == fingerprint.digest(run.base)
  assert 'base' not in fitted.about_inputs(
    t.problem, entered._replace(run=run._replace(base=None))
  )


def test_configs_name_them():
  made = registry.make(
    'dda', beta=0.5, inverse={'kind': 'ekfac', 'damping': 'heuristic'}
  )
  assert method_lib.name_of(made) == 'dda'
  assert registry.make('dda', inverse=None).fit is None
  assert method_lib.name_of(registry.make('contrast_pair')) == 'contrast_pair'
