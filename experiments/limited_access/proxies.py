"""Proxies: models that stand for a target to which access is limited.

Scenarios of Zhang et al. 2025: S0 the target itself; S1 its architecture and its
outputs are known; S2 its architecture only; S3 its outputs only; S4 nothing; S5
models that were never trained on the rows. A control has the target's access, S0,
and a proxy's hyperparameters: they alone change how well scores predict.
"""

import copy
import pathlib
from typing import Any, NamedTuple

import jax

from experiments.shared import arguments, stages, tasks
from experiments.shared import scores as scores_lib
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax import trees
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.training import distill

TARGET = 's0_target'
Key = tuple[str, str]  # (proxy, method)
RANDOM: Key = ('', 'random')


class Proxy(NamedTuple):
  """A model that stands for the target, and where it is kept.

  Attributes:
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


def label(key: Key) -> str:
  """'PROXY/METHOD', and 'random', as tables and folders have it."""
  return '/'.join(filter(None, key))


def trained(config, target: Task, workdir: pathlib.Path) -> dict[str, Proxy]:
  """Every proxy of the config, the target's own models first.

  All distilled ones learn from one model, the first of the target's: the one
  that is deployed.
  """
  found = {}
  for name in [TARGET, *(n for n in config.proxies if n != TARGET)]:
    changed = config_of(config, name)
    task = tasks.classifier(changed, target.train, target.queries, target.shown)
    problem, alpha = task.problem, changed.training.distillation.alpha
    if alpha:
      task = task._replace(
        problem=distill.distilled(problem, **changed.training.distillation),
        train=with_answers(found[TARGET], target.train),
        queries=with_answers(found[TARGET], target.queries),
      )
    folder = workdir / name
    runs = _runs(changed, task, folder)
    found[name] = Proxy(changed, task, problem, runs, folder)
  return found


def relabelled(
  proxies: dict[str, Proxy], train: dict, fraction: float, workdir: pathlib.Path
) -> dict[str, Proxy]:
  """The proxies of a target of other labels, trained on these rows.

  Proxies that were never trained on the rows stay as they are.
  """
  found = {}
  for name, proxy in proxies.items():
    changed = copy.deepcopy(proxy.config)
    changed.data.label_noise = fraction
    rows = train
    if changed.training.distillation.alpha:
      rows = with_answers(found[TARGET], train)
    task = proxy.task._replace(train=rows)
    runs, folder = proxy.runs, workdir / name
    if changed.training.epochs and not changed.data.held_out:
      runs = stages.train(changed, task, folder)
    found[name] = proxy._replace(
      config=changed, task=task, runs=runs, folder=folder
    )
  return found


def config_of(config, name: str):
  """The config with the fields that the proxy `name` changes.

  The target's seed is known to its controls and not to others: proxies share
  another one, so that those that differ by distillation only have the same
  initialisation.
  """
  changed = arguments.changed(config, config.proxies.get(name, {}))
  changed.seed = config.seed + (name not in {TARGET, *controls(config)})
  return changed


def controls(config) -> set[str]:
  """Names of the proxies that others are held against."""
  return {control for control, _ in config.controlled}


def controlled(config, control: str, proxy: str) -> bool:
  """Whether `control` tells what the proxy lacks, and not how it was trained.

  It is the target but for its hyperparameters, which are those of the proxy; and
  the proxy is another model than by its seed alone.
  """
  distilled = config_of(config, control).training.distillation.alpha > 0
  apart = ('seed', 'model', 'training.distillation')
  return (
    same_but(config, control, TARGET, 'training')
    and not distilled
    and same_but(config, control, proxy, *apart)
    and not same_but(config, control, proxy, 'seed')
  )


def same_but(config, a: str, b: str, *fields: str) -> bool:
  """Whether two proxies differ in these fields, and those under them, at most."""

  def rest(name):
    every = arguments.flat(config_of(config, name))
    under = tuple(f'{field}.' for field in fields)
    return {k: v for k, v in every if not f'{k}.'.startswith(under)}

  return rest(a) == rest(b)


def with_answers(target: Proxy, rows: dict) -> dict:
  """The rows with what the deployed model answers to them."""
  first = trees.row(target.runs.params, 0)
  return distill.with_teacher(target.cross_entropy, first, rows)


def scores(proxy: Proxy, method: Scored):
  """Scores of one method by the proxy's models: `shared.scores.by_model`."""
  changed, task = by_its_loss(proxy, method)
  return scores_lib.by_model(
    changed, method.name, method, task, proxy.runs, proxy.folder
  )


def can_score(proxy: Proxy, method: Scored) -> bool:
  """Whether the method can score by the proxy: some follow its training."""
  follows = method.kind in ('tracin', 'source', 'unrolled')
  return not follows or proxy.config.checkpoints > 0


def by_its_loss(proxy: Proxy, method: Scored):
  """(config, task) with the loss that its rows are scored by.

  A distilled proxy's own loss is what its parameters are an optimum of, so that
  scores say what removing a row from its training does; 'cross_entropy' is the
  loss that the target was trained by.

  Raises:
    ValueError: a `score_loss` that is neither.
  """
  changed = copy.deepcopy(proxy.config)
  changed.score_loss = method.score_loss or changed.score_loss
  if changed.score_loss not in ('own', 'cross_entropy'):
    raise ValueError(
      f"score_loss={changed.score_loss!r} is unknown: use 'own' or 'cross_entropy'"
    )
  task = proxy.task
  if changed.score_loss == 'cross_entropy':
    task = task._replace(problem=proxy.cross_entropy)
  return changed, task


def _runs(changed, task: Task, folder) -> Run:
  """The proxy's models: trained on the task's rows, on others, or not at all."""
  if changed.training.epochs == 0:
    keys = jax.random.split(jax.random.key(changed.seed), changed.members)
    params = jax.jit(jax.vmap(task.recipe.init))(keys)
    return Run(params, None, None, None, keys)
  if changed.data.held_out:
    task = task._replace(train=tasks.load(changed).train)
  return stages.train(changed, task, folder)
