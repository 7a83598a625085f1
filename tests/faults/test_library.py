"""Every kind of file that library calls keep, damaged: survived or refused."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny

from scripts import faults
from scripts.faults import Fault
from tda_jax import scoring
from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import retraining
from tda_jax.methods import gradients
from tda_jax.storage import record
from tda_jax.training import members
from tda_jax.training.fit import Recipe

KEY = jax.random.key(0)
RECIPE = Recipe(
  functools.partial(tiny.mlp_init, (5, 4, 3)),
  lambda steps: optax.sgd(0.1, momentum=0.9),
  lambda steps: optax.constant_schedule(0.1),
  4,
  2,
)


def work(folder):
  """Trains two models, scores by them, and retrains, all kept in `folder`."""
  t, method = tiny.classification(), gradients.grad_dot()
  runs = members.train(
      t.problem, RECIPE, t.train, jax.random.split(KEY, 2), checkpoints=3,
      directory=folder / 'train',
  )  # fmt: skip
  every = {'name': 'grad_dot', 'key': KEY, 'progress': False, 'batch_size': 4}
  args = (t.train, t.queries)
  found = scoring.score(
    method, t.problem, runs, *args, folder / 'scores', **every
  )
  one = runs._replace(
      params=jax.tree.map(lambda x: jnp.asarray(x[0]), runs.params),
      checkpoints=None, learning_rates=None, steps=None, keys=None,
  )  # fmt: skip
  top, rows = scoring.top_k(
    method, t.problem, one, *args, 3, path=folder / 'top', **every
  )
  outcomes = retraining.outcomes(
      t.problem, RECIPE, *args, half_subsets(0, 11, 3), repeats=1,
      key=KEY, path=folder / 'truth', members_at_once=2, progress=False,
  )  # fmt: skip
  leaves = jax.tree.leaves((runs.params, runs.checkpoints))
  arrays = {f'leaf{i}': leaf for i, leaf in enumerate(leaves)}
  arrays |= {'scores': found, 'top': top, 'rows': rows, 'outcomes': outcomes}
  record.write_npz(folder / 'found.npz', arrays)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  work(folder)
  return folder


FAULTS = {
  'train/state/run.json': ('cut in half', 'another digit'),
  'train/state/step_6/state/ocdbt.process_0/d/*': ('a bit flipped', 'lost'),
  'train/state/step_6/sha256sums': ('emptied',),
  'train/state/snapshot_2/state/ocdbt.process_0/d/*': ('a bit flipped',),
  'train/state/snapshot_4': ('lost',),
  'scores/1/c/1/0': ('a sign flipped', 'lost with its marker'),
  'scores/1/done/1': ('garbage',),
  'scores/1/done': ('lost',),
  'scores/1/zarr.json': ('another digit', 'emptied', 'lost'),
  'scores/1/facts.json': ('another digit',),
  'top/run.json': ('lost',),
  'top/top_11/state/ocdbt.process_0/d/*': ('a bit flipped',),
  'truth/c/1/0': ('an exponent flipped', 'NaN in it', 'cut in half', 'lost'),
}
FAULTS = [Fault(pattern, d) for pattern, of in FAULTS.items() for d in of]


@pytest.mark.parametrize('fault', FAULTS, ids=' '.join)
def test_a_damaged_file_is_survived_or_refused(finished, tmp_path, fault):
  found = faults.outcome(work, finished, tmp_path / 'w', fault)
  assert found.name in ('survived', 'refused'), found.text


def test_what_is_finished_is_read_and_stays(finished):
  files = [p for p in finished.rglob('*') if p.name != '.lock']
  before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}
  work(finished)
  files = [p for p in finished.rglob('*') if p.name != '.lock']
  assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files} == before
