"""Both ground truths of a tiny decoder that is trained with AdamW."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tda_jax.data import subsets
from tda_jax.evaluation import lds, qld, reliability, removal, retraining
from tda_jax.models import decoder
from tda_jax.problem import Problem
from tda_jax.training import members
from tda_jax.training.fit import Recipe

pytestmark = pytest.mark.slow  # compiling takes long
SIZES = decoder.Sizes(32, 16, 2, 2, 2, 32, 8, scanned=True)
KEYS = jax.random.split(jax.random.key(0), 1)
RATE, STEPS = 0.02, 12  # 4 epochs of 24 rows in batches of 8


def likelihood(outputs, example):
  """log p of the target tokens that count."""
  picked = jnp.take_along_axis(
    jax.nn.log_softmax(outputs), example['targets'][:, None], 1
  )
  return jnp.sum(example['mask'] * picked[:, 0])


@functools.cache
def problem():
  _, apply = decoder.decoder(SIZES)
  return Problem(
    lambda params, example: apply(params, example['ids'][None])[0],
    lambda outputs, example: -likelihood(outputs, example),
    likelihood,
    lambda key, outputs, example: {
      **example,
      'targets': jax.random.categorical(key, outputs),
    },
    lambda shape, rows: None,
    reads=('ids', 'targets', 'mask'),
  )


def schedule(steps):
  return optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 4, steps)


@functools.cache
def recipe():
  def optimizer(steps):
    return optax.adamw(
      schedule(steps), weight_decay=0.01, mask=decoder.matrices
    )

  return Recipe(decoder.decoder(SIZES)[0], optimizer, schedule, 8, 4)


def texts(seed, n):
  """Sequences that count up or down from a random token, padded at random."""
  rng = np.random.default_rng(seed)
  start, by = rng.integers(0, 32, (n, 1)), rng.choice([1, -1, 3], (n, 1))
  tokens = (start + by * np.arange(9)) % 32
  mask = np.arange(8) < rng.integers(4, 9, (n, 1))
  return {
    'ids': np.where(mask, tokens[:, :-1], 0).astype(np.int32),
    'targets': np.where(mask, tokens[:, 1:], 0).astype(np.int32),
    'mask': mask.astype(np.float32),
  }


TRAIN, QUERIES = texts(0, 24), texts(1, 6)


@functools.cache
def run():
  return members.train(problem(), recipe(), TRAIN, KEYS, checkpoints=2)


def test_training_with_adamw_and_warm_up_lowers_the_loss():
  before = jax.vmap(recipe().init)(KEYS)
  first, last = (
    retraining.measures(problem(), params, TRAIN).mean()
    for params in (before, run().params)
  )
  assert last > first + 0.3 * TRAIN['mask'].sum(1).mean()
  assert run().second_moments is not None
  # The rate rises from 0 for a quarter of the run and falls to 0.
  rates = [float(schedule(STEPS)(t)) for t in range(STEPS)]
  assert rates[0] == 0 and max(rates) == rates[3] == pytest.approx(RATE)
  np.testing.assert_allclose(
    run().learning_rates, [np.mean(rates[:6]), np.mean(rates[6:])], 1e-5
  )


def test_own_run_without_rows_and_without_tokens(tmp_path):
  without = functools.partial(
    removal.without,
    *(problem(), recipe(), TRAIN, QUERIES),
    keys=run().keys,
    members_at_once=6,
    progress=False,
  )
  base = without(np.zeros((1, 0)), path=tmp_path / 'run')
  of_run = retraining.measures(problem(), run().params, QUERIES)
  np.testing.assert_allclose(base[0], of_run, 1e-5)
  # What single rows do to the run predicts what several do, and finds for each
  # query those that it misses most.
  left = without(np.arange(24)[:, None], path=tmp_path / 'left')
  scores = (base - left)[:, 0]
  dropped = removal.at_random(24, 12, seed=0, share=0.1)
  own = without(dropped, path=tmp_path / 'own')
  kept = subsets.complement(dropped, 24)
  assert lds.lds(scores, own.mean(1), kept).mean() > 0.8
  filtered = without(removal.top(scores, 0.1), path=tmp_path / 'filtered')
  tokens = QUERIES['mask'].sum(1)
  assert qld.interval(filtered, own, tokens, over='queries').low > 0
  # A row all of whose tokens are removed is removed.
  places = (dropped[:6, :, None] * 8 + np.arange(8)).reshape(6, -1)
  by_token = without(places, path=tmp_path / 'tokens', column='mask')
  np.testing.assert_allclose(by_token, own[:6], 1e-4)


def test_halves_and_seeds_have_a_ceiling(tmp_path):
  outcomes = retraining.outcomes(
    *(problem(), recipe(), TRAIN, QUERIES),
    subsets.half_subsets(0, 24, 12),
    repeats=3,
    key=jax.random.key(1),
    path=tmp_path / 'halves',
    members_at_once=36,
    progress=False,
  )
  assert outcomes.shape == (12, 3, 6)
  assert len(np.unique(outcomes[..., 0])) == 36
  found = reliability.ceiling(outcomes, resamples=20)
  assert 0.3 < found.estimate.value < 1
