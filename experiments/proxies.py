"""Proxies: models that stand for a target to which access is limited.

Scenarios of Zhang et al. 2025: S0 the target itself; S1 its architecture and its
outputs are known; S2 its architecture only; S3 its outputs only; S4 nothing; S5
models that were never trained on the rows.
"""

import copy
import pathlib
from typing import Any, NamedTuple

import jax

from experiments import arguments, stages, tasks
from experiments import scores as scores_lib
from experiments.tasks import Task
from tda_jax import trees
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.training import distill

TARGET = 's0_target'


class Proxy(NamedTuple):
  """Attributes:
  config: the experiment's, with what the proxy changes.
  task: its problem (distilled, where it is), recipe, and the target's rows.
  cross_entropy: its problem with the loss of the labels alone.
  runs: its trained models.
  folder: what is kept of it.
  """

  config: Any
  task: Task
  cross_entropy: Problem
  runs: Run
  folder: pathlib.Path


def trained(config, target: Task, workdir: pathlib.Path) -> dict[str, Proxy]:
  """Every proxy of the config, the target's own models first.

  All distilled ones learn from one model, the first of the target's: the one
  that is deployed.
  """
  found = {}
  for name in [TARGET, *(n for n in config.proxies if n != TARGET)]:
    own = config_of(config, name)
    task = tasks.classifier(own, target.train, target.queries, target.shown)
    problem, alpha = task.problem, own.training.distillation.alpha
    if alpha:
      task = task._replace(
        problem=distill.distilled(problem, **own.training.distillation),
        train=asked(found[TARGET], target.train),
        queries=asked(found[TARGET], target.queries),
      )
    folder = workdir / name
    runs = _runs(own, task, folder)
    found[name] = Proxy(own, task, problem, runs, folder)
  return found


def relabelled(
  proxies: dict[str, Proxy], train: dict, fraction: float, workdir: pathlib.Path
) -> dict[str, Proxy]:
  """The proxies of a target of other labels, trained on these rows.

  Models that were never trained on the rows are those that there were.
  """
  found = {}
  for name, proxy in proxies.items():
    own = copy.deepcopy(proxy.config)
    own.data.label_noise = fraction
    rows = train
    if own.training.distillation.alpha:
      rows = asked(found[TARGET], train)
    task = proxy.task._replace(train=rows)
    runs, folder = proxy.runs, workdir / name
    if own.training.epochs and not own.data.held_out:
      runs = stages.train(own, task, folder)
    found[name] = proxy._replace(
      config=own, task=task, runs=runs, folder=folder
    )
  return found


def config_of(config, name: str):
  """The config with the fields that the proxy `name` changes.

  The target's seed is not known to others: proxies share another one, so that
  those that differ by distillation only have the same initialisation.
  """
  own = arguments.changed(config, config.proxies.get(name, {}))
  own.seed = config.seed + (name != TARGET)
  return own


def asked(target: Proxy, rows: dict) -> dict:
  """The rows with what the deployed model answers to them."""
  first = trees.row(target.runs.params, 0)
  return distill.with_teacher(target.cross_entropy, first, rows)


def scores(proxy: Proxy, name: str, settings: dict):
  """Scores of one method by the proxy's models: `experiments.scores.by_model`."""
  own, task, settings = by_its_loss(proxy, settings)
  return scores_lib.by_model(
    own, name, settings, task, proxy.runs, proxy.folder
  )


def able(proxy: Proxy, settings: dict) -> bool:
  """Whether the method can score by the proxy: some follow its training."""
  follows = settings['kind'] in ('tracin', 'source', 'unrolled')
  return not follows or proxy.config.checkpoints > 0


def by_its_loss(proxy, settings):
  """(config, task, settings) with the loss that its rows are scored by.

  A distilled proxy's own loss is what its parameters are an optimum of, so that
  scores say what removing a row from its training does; 'cross_entropy' is the
  loss that the target was trained by.

  Raises:
    ValueError: a `score_loss` that is neither.
  """
  settings, own = dict(settings), copy.deepcopy(proxy.config)
  own.score_loss = settings.pop('score_loss', own.score_loss)
  if own.score_loss not in ('own', 'cross_entropy'):
    raise ValueError(
      f"score_loss={own.score_loss!r} is unknown: use 'own' or 'cross_entropy'"
    )
  task = proxy.task
  if own.score_loss == 'cross_entropy':
    task = task._replace(problem=proxy.cross_entropy)
  return own, task, settings


def _runs(own, task: Task, folder) -> Run:
  """The proxy's models: trained on the task's rows, on others, or not at all."""
  if own.training.epochs == 0:
    keys = jax.random.split(jax.random.key(own.seed), own.members)
    params = jax.jit(jax.vmap(task.recipe.init))(keys)
    return Run(params, None, None, None, keys)
  if own.data.held_out:
    task = task._replace(train=tasks.load(own).train)
  return stages.train(own, task, folder)
