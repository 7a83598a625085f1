"""A user's own task on a page: its rows by their shape, its wrong answers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs.astra import base, digits
from experiments.astra import experiment as astra
from experiments.shared import evidence, looks, results
from experiments.shared.tasks import Task
from tda_jax.evaluation import predictions
from tda_jax.run import Run

Y = {'train': np.arange(4) % 2, 'queries': np.arange(3) % 2}


def task(*columns, shown=None, **named):
  """A task of rows of these shapes, under 'x' or by name."""
  shapes = {'x': columns[0], **named} if columns else named
  rows = {
    part: {'y': y, **{k: np.ones((len(y), *s)) for k, s in shapes.items()}}
    for part, y in Y.items()
  }
  return Task(None, None, rows['train'], rows['queries'], shown)


@pytest.mark.parametrize(
  'own, shape, columns',
  [
    (task((5, 6)), (5, 6), None),
    (task((5, 6, 1)), (5, 6, 1), None),
    (task((5, 6, 3)), (5, 6, 3), None),
    (task((5, 6, 7)), (5, 6), None),  # seven channels: their mean
    (task((2,)), (2,), ['x0', 'x1']),
    (task(()), (1,), ['x']),
    (task(age=(), lab=(2,)), (3,), ['age', 'lab0', 'lab1']),
    (task(age=(), scan=(4, 4)), (4, 4), None),
    (task((2, 2, 2, 2)), (0,), []),
  ],
)
def test_rows_look_by_their_shape(own, shape, columns):
  found = looks.of(own)
  assert found.train.shape == (4, *shape) and found.queries.shape == (3, *shape)
  assert found.columns == columns and found.classes is None
  np.testing.assert_array_equal(found.labels, Y['train'])


def test_many_channels_are_shown_by_their_mean():
  own = task((2, 2, 5))
  own.train['x'][..., 0] = 6
  np.testing.assert_array_equal(looks.of(own).train, np.full((4, 2, 2), 2.0))


def test_what_a_task_says_of_its_looks_goes_before():
  said = {'train': np.array([['a'], ['b'], ['c'], ['d']]), 'queries': 1,
          'columns': ('text',)}  # fmt: skip
  with pytest.raises(ValueError, match="no 'queries' of 3 rows: give"):
    looks.of(task((2,), shown=said))
  said['queries'] = np.array([['e'], ['f'], ['g']])
  found = looks.of(task((2,), shown=said))
  assert found.columns == ('text',) and found.train[1, 0] == 'b'
  said['target'] = (10.0, 2.0)
  found = looks.of(task((2,), shown=said))
  np.testing.assert_array_equal(found.labels, [10, 12, 10, 12])


def test_wrong_ones_are_scored_for_what_was_predicted():
  t = tiny.classification(n=11, q=9)
  run = Run(jax.tree.map(lambda p: jnp.stack([p, p]), t.params), *[None] * 4)
  own = Task(t.problem, None, t.train, t.queries)
  config = base.config('digits')
  config.task = 'my_module:my_function'
  config.report.queries = 5
  asked = []

  def again(queries):
    asked.append(queries)
    return (np.full((2, 11, len(queries['y'])), 2.0),)

  scores = np.ones((2, 11, 9))
  shown = evidence.shown(config, own, run, (scores,), 'm', again=again)
  found = predictions.of_models(t.problem, run, t.queries)
  order = predictions.order(found)[:5]
  assert [q.example.row for q in shown.queries] == list(order)
  wrong = order[found.wrong[order]]
  assert 0 < len(wrong) and len(asked) == 1
  np.testing.assert_array_equal(asked[0]['x'], t.queries['x'][wrong])
  np.testing.assert_array_equal(asked[0]['y'], found.labels[wrong])
  for query in shown.queries:
    assert query.wrong == (query.rivals is not None)
    assert all(one.score == 2 for one in query.rivals or ())
    assert sum(p for _, p in query.chances) == pytest.approx(1, abs=1e-5)
  told = shown.context
  assert 'log-odds' in told['measure'] and 'nats' in told['measure']
  assert f'{1 - found.wrong.mean():.1%} of the 9 queries' in told['accuracy']
  assert 'my_module:my_function' in told['model']
  assert results.title(config) == 'my_module:my_function'
  assert results.judged(config, [1]) == []
  config.task = 'experiments.shared.tasks:digits'
  assert results.title(config) == 'astra: digits'
  assert results.judged(config, [1]) == [1]


def test_numbers_have_their_own_unit_again():
  t = tiny.regression(q=4)
  run = Run(jax.tree.map(lambda p: p[None], t.params), *[None] * 4)
  shown = {'train': t.train['x'], 'queries': t.queries['x'],
           'target': (np.float32(50), np.float32(10))}  # fmt: skip
  own = Task(t.problem, None, t.train, t.queries, shown)
  config = base.config('digits')
  found = evidence.shown(config, own, run, (np.ones((1, 11, 4)),), 'm')
  outputs = tiny.mlp_apply(t.params, t.queries['x'])
  errors = 10 * np.abs(outputs - t.queries['y'])[:, 0]
  assert [q.example.row for q in found.queries] == list(np.argsort(-errors))
  first = found.queries[0]
  assert first.error == f'{errors.max():.4g}' and first.rivals is None
  label = 50 + 10 * t.queries['y'][first.example.row, 0]
  assert first.example.label == f'{label:.4g}'
  assert f'{errors.mean():.4g}, mean over the 4' in found.context['mean error']


def test_a_measure_says_what_it_is():
  measure = lambda outputs, example: outputs[0]
  problem = types.SimpleNamespace(measure=measure)
  assert 'does not say' in evidence.measure_in_words(problem)

  def bleu(outputs, example):
    """BLEU, from 0
    to 1.

    More.
    """

  problem.measure = bleu
  assert evidence.measure_in_words(problem) == 'BLEU, from 0 to 1.'


OWN = """
import jax.numpy as jnp, numpy as np, optax, tda_jax as tda

def apply(params, x):
  return x.reshape(len(x), -1) @ params['w']

def make(config):
  x = np.random.default_rng(0).normal(size=(60, 4, 4)).astype(np.float32)
  y = (x.mean((1, 2)) > 0).astype(int)
  y[50:53] = 1 - y[50:53]
  recipe = tda.Recipe(
    lambda key: {'w': jnp.zeros((16, 2))}, lambda steps: optax.sgd(0.1),
    lambda steps: optax.constant_schedule(0.1), 10, 5,
  )
  rows = lambda of: {'x': x[of], 'y': y[of]}
  problem = tda.classification(apply)
  return problem, recipe, rows(slice(50)), rows(slice(50, 60))
"""


@pytest.mark.slow
def test_a_users_own_task_has_a_page(tmp_path, monkeypatch):
  (tmp_path / 'own_task.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  config = digits.get_config('smoke')
  config.task, config.method = 'own_task:make', 'ekfac'
  config.left_out.rows = 0
  workdir = tmp_path / 'w'

  def page():
    workdir.mkdir(exist_ok=True)
    astra.main(config, workdir)
    return (workdir / 'report.html').read_text()

  first = page()
  assert '<h1>own_task:make</h1>' in first and 'Claims' not in first
  assert 'Supports the prediction' in first and first.count(': wrong<') >= 3
  assert first.count('class="pixels"') > 12
  assert 'own_task:make' in (workdir / 'results.json').read_text()
  (folder,) = workdir.glob('scores/*/ekfac_predicted/*')
  stamps = {f: f.stat().st_mtime_ns for f in folder.glob('*/c/**/*')}
  assert stamps and page().count('<article') == first.count('<article')
  assert all(f.stat().st_mtime_ns == t for f, t in stamps.items())
  config.report.queries = 2  # fewer wrong ones: scores of their own
  assert page().count('<article') == 2
  assert len(list(folder.parent.iterdir())) == 2
