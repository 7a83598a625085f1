"""The mark of a page's evidence."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from experiments.shared import evidence
from tda_jax.evaluation import supporters
from tda_jax.run import Run


def test_marks_are_of_rows_that_other_models_confirm():
  t = tiny.classification(n=60, q=4)
  rng = np.random.default_rng(0)
  effect = np.zeros((60, 4))
  effect[:2], effect[2] = 9, -9
  scores = effect + rng.normal(size=(8, 60, 4))
  runs = Run(
    jax.tree.map(lambda x: jnp.stack([x] * 8), t.params), None, None, None
  )
  task = types.SimpleNamespace(
    problem=t.problem, train=t.train, queries=t.queries,
    shown={'train': t.train['x'], 'queries': t.queries['x']},
  )  # fmt: skip
  config = types.SimpleNamespace(
    report=types.SimpleNamespace(queries=3, evidence=4), task='my:task'
  )
  shown = evidence.shown(config, task, runs, (scores,), 'm').queries
  marks = supporters.marked(scores, 4)
  assert len(shown) == 3
  for query in shown:
    q = query.example.row
    for one in (*query.supporters, *query.opponents):
      assert one.significant == marks[one.example.row, q]
    of = [one.example.row for one in query.supporters if one.significant]
    assert sorted(of) == [0, 1]
    assert query.opponents[0].example.row == 2
    assert query.opponents[0].significant
  few = evidence.shown(config, task, runs, (scores[:3],), 'm').queries
  every = [one for q in few for one in (*q.supporters, *q.opponents)]
  assert not any(one.significant for one in every)
  assert every[0].standard_error > 0
