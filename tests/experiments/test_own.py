"""A task of one's own, by the command line."""

import json

import pytest
from test_cli import run, sentence

from configs.own import task
from experiments.own import example

SMOKE = 'configs/own/task.py:smoke'


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('own', SMOKE, workdir)


def test_it_writes_a_table_and_a_page_under_the_tasks_name(smoke):
  workdir, done = smoke
  results = json.loads((workdir / 'results.json').read_text())
  assert results['setting'] == 'experiments.own.example:wines'
  assert results['claims'] == []
  cells = {(row['method'], row['metric']) for row in results['rows']}
  assert ('ekfac', 'relative_residual') in cells
  for method in ('ekfac', 'grad_cos', 'similarity'):
    assert (method, 'seconds of a model') in cells
    assert (method, 'top 3 confirmed') in cells
  page = (workdir / 'report.html').read_text()
  assert 'experiments.own.example:wines' in page and 'supporter' in page
  assert 'of the 3 strongest supporters of each query' in done.stdout


@pytest.mark.slow
def test_a_ground_truth_gives_an_lds(smoke):
  workdir, _ = smoke
  flags = ('--config.truth.subsets=4', '--config.truth.repeats=2')
  run('own', SMOKE, workdir, *flags)
  rows = json.loads((workdir / 'results.json').read_text())['rows']
  assert {'lds_single', 'lds_ensemble', 'ceiling'} <= {
    r['metric'] for r in rows
  }


@pytest.mark.slow
def test_what_it_would_not_read_is_refused(smoke):
  workdir, _ = smoke
  done = run('own', SMOKE, workdir, '--config.damping_grid=(0.1,)', ok=False)
  assert 'would not be read' in sentence(done)


def test_the_example_is_a_task():
  problem, recipe, train, queries = example.wines(task.get_config())
  assert len(train['y']) + len(queries['y']) == 178
  assert train['x'].shape[1:] == (13,) and recipe.epochs == 60
  assert problem.reads == ('x', 'y')
