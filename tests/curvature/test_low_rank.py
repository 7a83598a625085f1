"""Queries as low-rank factors against numpy's singular vectors."""

import json

import jax
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax.curvature import gram, low_rank
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib


def truncated(matrices, rank):
  """Matrices of numpy's best rank, those that would not be smaller as they are."""
  result = {}
  for name, v in matrices.items():
    v = np.asarray(v, np.float64)
    if rank * sum(v.shape[-2:]) < np.prod(v.shape[-2:]):
      u, s, w = np.linalg.svd(v, full_matrices=False)
      v = (u[..., :rank] * s[..., None, :rank]) @ w[..., :rank, :]
    result[name] = v
  return result


def test_factors_are_the_best_of_their_rank():
  keys = jax.random.split(jax.random.key(0), 3)
  matrices = {
    'wide': jax.random.normal(keys[0], (2, 3, 5, 9)),  # a stack of two
    'tall': jax.random.normal(keys[1], (3, 9, 4)),
    'small': jax.random.normal(keys[2], (3, 1, 7)),
  }
  factors, lost = jax.jit(low_rank.approximated, static_argnums=1)(matrices, 2)
  want = truncated(matrices, 2)
  off, whole = 0.0, 0.0
  for name, v in matrices.items():
    got = factors[name]
    if name == 'small':
      assert got is factors['small'] and not isinstance(got, low_rank.LowRank)
    else:
      got = got.a @ got.b
    np.testing.assert_allclose(got, want[name], atol=1e-5)
    axes = (*range(v.ndim - 3), -2, -1)
    off = off + ((v - want[name]) ** 2).sum(axes)
    whole = whole + (np.asarray(v) ** 2).sum(axes)
  np.testing.assert_allclose(lost, np.sqrt(off / whole), rtol=1e-4)


@pytest.mark.filterwarnings('ignore:query_rank leaves out')
@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_scores_are_those_of_the_matrices_of_low_rank(name):
  t = tiny.model(name)
  method = tda.influence(tda.identity(), query_rank=1)
  got = tda.attribute(method, t.problem, t.params, t.train, t.queries)
  example = rows_lib.take(t.train, 0)
  layers = layers_lib.find(t.problem.outputs, t.params, example)
  unit = lambda g: jax.tree.map(lambda x: np.asarray(x, np.float64), g)
  trees = [
    unit(jax.vmap(jax.grad(lambda p, e, f=f: f(t.problem.outputs(p, e), e)),
             (None, 0))(t.params, r))
    for f, r in ((t.problem.loss, t.train), (t.problem.measure, t.queries))
  ]  # fmt: skip
  losses, measures = (
    gram.layer_matrices(t.problem, t.params, example, g) for g in trees
  )
  measures = truncated(measures, 1)
  want = 0.0
  for layer in layers:
    flat = [
      np.moveaxis(np.asarray(m[layer]), -3, 0).reshape(m[layer].shape[-3], -1)
      for m in (losses, measures)
    ]
    want = want - flat[0] @ flat[1].T / rows_lib.count(t.train)
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


@pytest.mark.filterwarnings('ignore:query_rank leaves out')
def test_what_a_rank_leaves_out_is_told_in_facts(tmp_path):
  t = tiny.classification(widths=(12, 10, 3))
  of = lambda **more: tda.influence(tda.ekfac(0.1), **more)
  run = (t.problem, t.params, t.train, t.queries)
  whole = np.asarray(tda.score(of(), *run, tmp_path / 'whole')[0])
  for rank, least, most in ((5, 1e-5, 5e-3), (1, 0.02, 0.5)):
    folder = tmp_path / str(rank)
    got = np.asarray(
      tda.score(of(query_rank=rank), *run, folder, progress=False)[0]
    )
    told = json.loads((folder / '0' / 'facts.json').read_text())['left_out']
    assert least < told < most
    off = np.linalg.norm(got - whole) / np.linalg.norm(whole)
    assert least < off < most
  blocks = tmp_path / 'blocks'
  tda.score(of(query_rank=1), *run, blocks, queries_at_once=2, progress=False)
  told = json.loads((blocks / '0' / 'facts.json').read_text())
  each = [block['left_out'] for block in told['blocks'].values()]
  assert len(each) == 2 and told['left_out'] == max(each)


def test_a_rank_that_leaves_out_much_is_said():
  t = tiny.classification(widths=(12, 10, 3))
  method = tda.influence(tda.ekfac(0.1), query_rank=1)
  with pytest.warns(UserWarning, match='query_rank leaves out up to .*larger'):
    tda.attribute(method, t.problem, t.params, t.train, t.queries)


@pytest.mark.parametrize('rank', [0, 1.5, True])
def test_a_rank_is_a_whole_number(rank):
  with pytest.raises(ValueError, match='query_rank=.*whole number from 1'):
    tda.influence(tda.identity(), query_rank=rank)
