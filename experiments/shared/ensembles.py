"""Ensembles by name: what members the models of a run give.

'naive': the models themselves; 'halves': models of random halves of the rows
(TRAK's); 'checkpoints:C': the last C snapshots of each; 'dropout:D': D masks on
each; 'projections:D': each model D times, for methods that draw at random;
'lora:L': L adapters fine-tuned on each. I models with D variants each are I·D
members, model by model.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from experiments.shared import grammar, recipes, stages, timing
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared.scored import Scored
from tda_jax import trees
from tda_jax.models import lora
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.training import ensembles

KINDS = ('naive', 'halves', 'checkpoints', 'dropout', 'projections', 'lora')
WHOLE = ('naive', 'halves')  # have no variants
MASK = 8e-6  # MB of the key that a dropout mask is drawn from


class Members(NamedTuple):
  """I models with D variants each, and what they cost.

  Attributes:
    runs: I·D members, model by model.
    problem: of them.
    variants: D.
    training: seconds of (a model, a variant).
    storage: MB of (a model, a variant).
  """

  runs: Run
  problem: Problem
  variants: int
  training: tuple[float, float]
  storage: tuple[float, float]


def trained(config, task, workdir) -> Members:
  """The models of a config, timed.

  Raises:
    ValueError: before it trains, an ensemble or method of the config is none.
  """
  kinds = (config.get('ensemble', 'naive'), *config.get('ensembles', ()))
  scored_lib.named(config)
  if 'lora' in {named(kind)[0] for kind in kinds}:
    if not isinstance(task.recipe, Run):
      params = jax.eval_shape(task.recipe.init, jax.random.key(0))
      jax.eval_shape(_adapters(config.lora, params), jax.random.key(0))
  runs = stages.train(config, task, workdir)
  return without_variants(
    task, runs, timing.on(workdir, 'train') / config.members
  )


def of_config(config, task, models: Members, workdir) -> tuple[Members, str]:
  """What config.ensemble names, and the ending of the names of its scores."""
  kind, count = named(config.get('ensemble', 'naive'))
  members = make(kind, count, config, task, models, workdir)
  if kind in WHOLE:
    return members, '' if kind == 'naive' else f'_{kind}'
  return members, f'_{kind}_{count}'


def scores(config, scored: Scored, task, members: Members, ending, workdir):
  """Scores of a method by model, and facts: `experiments.shared.scores.by_model`."""
  task = task._replace(problem=members.problem)
  return scores_lib.by_model(
    config,
    scored.name + ending,
    scored,
    task,
    members.runs,
    workdir,
    members.variants,
  )


def without_variants(task, runs: Run, seconds: float) -> Members:
  """The models themselves, of which training one took `seconds`."""
  size = _megabytes(runs.params) / trees.count(runs.params)
  return Members(runs, task.problem, 1, (seconds, 0.0), (size, 0.0))


def named(text: str) -> tuple[str, int]:
  """'dropout:10' -> ('dropout', 10), 'naive' -> ('naive', 1).

  Raises:
    ValueError: no such ensemble; a number that is missing or makes no sense.
  """
  kind, count, _ = grammar.term(text)
  if kind not in KINDS:
    raise ValueError(
      f'unknown ensemble {kind!r}: use one of {", ".join(KINDS)}'
    )
  if kind in WHOLE and count is None:
    return kind, 1
  if kind in WHOLE or not (count or '').isdigit() or int(count) < 1:
    raise ValueError(
      f'{text!r} is no ensemble: write {" or ".join(WHOLE)} alone, and the others'
      ' with a number for each model, for example dropout:10'
    )
  return kind, int(count)


def make(
  kind: str, count: int, config, task, models: Members, workdir
) -> Members:
  """`count` variants of each of the models."""
  key = jax.random.fold_in(jax.random.key(config.seed), KINDS.index(kind))
  runs, size = models.runs, models.storage[0]
  if kind == 'halves':
    return _halves(config, task, models, key, workdir)
  if kind == 'checkpoints':
    last = ensembles.last_checkpoints(runs, count)
    # The newest first: D of them are the last D.
    index = np.arange(trees.count(last.params)).reshape(-1, count)[:, ::-1]
    last = ensembles.members_at(last, index.ravel())
    return models._replace(runs=last, variants=count, storage=(0.0, size))
  if kind == 'dropout':
    masked = ensembles.masked(runs, count, key)
    return models._replace(runs=masked, variants=count, storage=(size, MASK))
  if kind == 'projections':
    same = ensembles.repeated(runs, count)
    return models._replace(runs=same, variants=count)
  if kind == 'lora':
    return _adapted(config, task, models, count, key, workdir)
  return models


def _halves(config, task, models: Members, key, workdir) -> Members:
  """Trains as many models, each on a random half of the rows."""
  if isinstance(task.recipe, Run):
    raise ValueError(
      "ensemble='halves' trains models, and this task gives a Run of trained"
      ' ones without a Recipe: let it return a Recipe'
    )
  count = config.members
  stages.claim(config, workdir, 'halves', members=count)
  train = lambda: ensembles.halves(
    task.problem,
    task.recipe,
    task.train,
    jax.random.split(key, count),
    frozen=trees.repeated(task.frozen, count),
    # Not the subsets of the ground truth, which have seeds of their own.
    seed=config.seed + 2,
    checkpoints=config.checkpoints,
    directory=workdir / 'halves',
    progress=True,
  )
  runs = timing.timed(workdir, 'halves', train)
  seconds = timing.on(workdir, 'halves') / count
  return models._replace(runs=runs, training=(seconds, 0.0))


def _adapted(config, task, models: Members, count, key, workdir) -> Members:
  """LoRA adapters on each model, fine-tuned from seeds of their own."""
  settings = config.lora
  stages.claim(config, workdir, f'lora_{count}', adapters=count, lora=settings)
  total = trees.count(models.runs.params) * count
  one = jax.eval_shape(lambda: trees.row(models.runs.params, 0))
  init = _adapters(settings, one)
  dropout = bool(config.model.get('dropout'))
  recipe = recipes.recipe(
    settings.training, init, dropout=dropout, seed=config.seed
  )
  stage = f'lora_{count}'
  train = lambda: ensembles.adapted(
    task.problem,
    recipe,
    task.train,
    models.runs,
    jax.random.split(key, total),
    alpha=settings.alpha,
    directory=workdir / stage,
    progress=True,
  )
  problem, runs = timing.timed(workdir, stage, train)
  return Members(
    runs,
    problem,
    count,
    (models.training[0], timing.on(workdir, stage) / total),
    (models.storage[0], _megabytes(runs.params) / total),
  )


def _adapters(settings, params):
  """key -> adapters of these parameters, as config.lora says."""
  return functools.partial(
    lora.init,
    params=params,
    rank=settings.rank,
    targets=tuple(settings.targets),
  )


def _megabytes(tree) -> float:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 1e6
