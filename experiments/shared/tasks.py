"""Tasks: a config -> what is trained on what, and what is asked.

A config's `task` names such a function as 'module:function'; a user's own may
return a Task, or a plain (problem, recipe or Run, train, queries).
"""

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import config_dict

from experiments.shared import grammar, networks, recipes, sources, worlds
from tda_jax import door
from tda_jax import problem as problem_lib
from tda_jax.data import images as images_lib
from tda_jax.data import prepare, tables, text
from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.training.fit import Recipe


class Task(NamedTuple):
  """What is trained on which rows, and what is asked.

  Attributes:
    problem: see `tda_jax.problem`.
    recipe: how its models are trained, or a Run of trained ones (leading
      member axis).
    train, queries: rows.
    shown: as people look at them: {'train', 'queries', 'classes' (names, or None),
      'columns' of a table, 'target' (mean and deviation of standardised ones),
      'split' (rows of the source)}; None: the rows (`experiments.shared.looks`).
    known: what was changed in the rows on purpose (`experiments.shared.worlds`).
    frozen: of one model, what all models have besides their parameters; None:
      nothing.
  """

  problem: Problem
  recipe: Recipe | Run
  train: Any
  queries: Any
  shown: dict | None = None
  known: dict | None = None
  frozen: Any = None


def is_users(config) -> bool:
  """Whether task or data are a user's, of which no paper claims anything."""
  return is_own(config) or is_file(config)


def is_own(config) -> bool:
  """Whether the task is a user's function."""
  return not config.task.startswith('experiments.shared.')


def is_file(config) -> bool:
  """Whether the data are a user's own file: a table, or a file of documents."""
  name, task = str(config.data.get('name')), grammar.term(config.task).argument
  documents = task == 'documents' and not is_own(config)
  texts = ('.txt', '.jsonl', '.parquet') if documents else ()
  return name.endswith(('.csv', '.csv.gz', '.npz', *texts))


def load(config) -> Task:
  """The task that `config.task` names.

  Raises:
    ValueError: there is no such function, or what it returns is no task.
  """
  module, function, _ = grammar.term(config.task)
  try:
    make = getattr(importlib.import_module(module), function or '')
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f'task={config.task!r} names no function ({error}): write it as'
      " 'module:function' with the module importable from here"
    ) from None
  made = _of_user(make, config) if is_own(config) else make(config)
  if not isinstance(made, tuple) or not 4 <= len(made) <= len(Task._fields):
    raise ValueError(
      f'{config.task} must return (problem, recipe or Run, train, queries)'
    )
  task = entered(Task(*made))
  return by_loss(task) if config.get('measure') == 'loss' else task


def entered(task: Task) -> Task:
  """The same task, through the library's front door: rows and trained models."""
  door.check_problem(task.problem)
  train = door.rows(task.train, 'train', task.problem)
  queries = door.rows(task.queries, 'queries', task.problem)
  made = task.recipe
  if not hasattr(made, 'optimizer'):
    made = door.models(task.problem, made, train, stacked=True)
  return task._replace(recipe=made, train=train, queries=queries)


def _of_user(make, config):
  """What a user's function returns, or a sentence that says what it raised."""
  try:
    return make(config)
  except Exception as error:
    raise ValueError(
      f'task={config.task!r} raised {type(error).__name__} when it was given the'
      f' config: {error}; --traceback shows where'
    ) from error


def by_loss(task: Task) -> Task:
  """The same task with minus the loss for its measure."""

  def measure(outputs, example):
    """Minus the loss that the model is trained with, in the loss's own unit."""
    return -task.problem.loss(outputs, example)

  return task._replace(problem=task.problem._replace(measure=measure))


def images(config) -> Task:
  """Image classification: Fashion-MNIST, MNIST, CIFAR-10 or the MNIST-5k.

  Pixels are standardised by one mean and deviation per channel of the training
  rows; with `data.symmetric` they go from -1 to 1. `data.held_out` is a number of
  rows, of the same source and neither training rows nor queries, to train on
  instead.
  """
  data = config.data
  if data.name == 'mnist5k':
    (train, queries), index = _drawn(images_lib.mnist5k(), data)
  elif data.name in sources.IMAGE_FILES:
    read = sources.IMAGE_FILES[data.name]
    rows, held_out = read(data.path), read(data.path, 'test')
    (train, queries), index = _drawn(rows, data, held_out)
  else:
    raise ValueError(
      f'unknown images {data.name!r}: use mnist5k or one of'
      f' {sorted(sources.IMAGE_FILES)}'
    )
  if data.get('pool'):
    train, queries = (images_lib.pooled(r, data.pool) for r in (train, queries))
  train, queries, known = worlds.changed(data, train, queries)
  shown = {'train': train['x'], 'queries': queries['x']}
  if data.get('symmetric'):
    train, queries = ({**r, 'x': 2 * r['x'] - 1} for r in (train, queries))
  else:
    train, queries = prepare.standardise(train, queries, axes=(0, 1, 2))
  shown = {
    **shown,
    'classes': sources.CLASSES.get(data.name),
    'split': _split(index),
  }
  return classifier(config, train, queries, shown)._replace(known=known)


def digits(config) -> Task:
  """scikit-learn's 8 x 8 digits, every pixel standardised."""
  drawn, index = _drawn(tables.digits(), config.data)
  square = lambda rows: {**rows, 'x': rows['x'].reshape(-1, 8, 8, 1) / 16}
  train, queries, known = worlds.changed(config.data, *map(square, drawn))
  shown = {'train': train['x'][..., 0], 'queries': queries['x'][..., 0]}
  train, queries = prepare.standardise(train, queries)
  if config.model.kind not in networks.CNNS:
    train, queries = (
      {**rows, 'x': rows['x'].reshape(-1, 64)} for rows in (train, queries)
    )
  shown = {**shown, 'classes': None, 'split': _split(index)}
  return classifier(config, train, queries, shown)._replace(known=known)


def reviews(config) -> Task:
  """Amazon Fine Foods reviews, great or other, as `data.length` word ids.

  The words are the `data.vocabulary` most frequent of the training rows.
  """
  data = config.data
  (train,), index = prepare.split(text.reviews(), data.seed, data.train)
  (queries,), more = prepare.split(
    text.reviews('test'), data.seed, data.queries
  )
  shown = {'train': train['x'][:, None], 'queries': queries['x'][:, None]}
  shown = {**shown, 'columns': ('review',), 'classes': ('other', 'great')}
  train, queries = text.tokens(
    train, queries, length=data.length, vocabulary=data.vocabulary
  )
  split = _split(index + more)
  return classifier(config, train, queries, {**shown, 'split': split})


def table(config) -> Task:
  """Regression or classification on a table.

  `data.name` is concrete, diabetes or breast_cancer; or a user's .csv or .npz
  file; or one of `sources.FILES`, read from `data.path`. A file's target column is
  `data.target`.
  """
  data = config.data
  rows, columns, classes = sources.read(data)
  rows_lib.check(rows, data.name)
  (train, queries), index = prepare.split(
    rows, data.seed, data.train, data.queries
  )
  regression = np.issubdtype(rows['y'].dtype, np.floating)
  if regression and data.get('label_noise'):
    raise ValueError(
      f'data.label_noise={data.label_noise} draws classes anew, and the target of'
      f' {data.name} is a number: leave it out'
    )
  shown = {'train': train['x'], 'queries': queries['x'], 'columns': columns}
  shown = {**shown, 'classes': classes, 'split': _split(index)}
  mean, deviation = train['y'].mean(0), train['y'].std(0)
  train, queries = prepare.standardise(train, queries, target=regression)
  if not regression:
    return classifier(config, train, queries, shown)
  shown = {**shown, 'target': (mean, deviation)}
  init, apply = _network(config, 1, train['x'].shape[1:])
  one = lambda params, x, *key: apply(params, x, *key)[:, 0]
  return Task(
    problem_lib.regression(one),
    recipes.of_config(config, init),
    train,
    queries,
    shown,
  )


def classifier(config, train, queries, shown) -> Task:
  """The network of config.model on these rows, trained as config.training says.

  A share `data.label_noise` of the training labels is drawn anew at random.
  """
  classes = int(max(train['y'].max(), queries['y'].max())) + 1
  if noise := config.data.get('label_noise'):
    train, noisy = prepare.relabel(train, noise, config.data.seed, classes)
    shown = {**shown, 'split': {**shown['split'], 'relabelled': noisy}}
  names = ('model', 'training', 'seed')
  vocabulary = {'vocabulary': config.data.get('vocabulary')}
  settings = {'data': vocabulary, **{name: config[name] for name in names}}
  settings = config_dict.FrozenConfigDict(settings)
  programs = _programs(settings, classes, train['x'].shape[1:])
  return Task(*programs, train, queries, shown)


@functools.lru_cache(4)
def _programs(config, classes, shape):
  """(problem, recipe); equal settings give the same, compiled once."""
  init, apply = _network(config, classes, shape)
  return problem_lib.classification(apply), recipes.of_config(config, init)


def _drawn(rows, data, test=None):
  """((train, queries), their row numbers), as config.data says.

  Args:
    test: rows that the queries are taken of; None: of the others of `rows`.
  """
  kept, numbers = _kept(rows, data)
  others = [] if test is not None else [data.queries]
  others += [data.held_out] if data.get('held_out') else []
  if data.get('per_class') and data.get('held_out'):
    raise ValueError('data.per_class and data.held_out exclude each other')
  if data.get('per_class'):
    parts, index = prepare.balanced(kept, data.seed, data.per_class, *others)
  else:
    parts, index = prepare.split(kept, data.seed, data.train, *others)
  index = [numbers[i] for i in index]
  which = -1 if data.get('held_out') else 0  # the held-out rows, if asked for
  train = parts[which], index[which]
  if test is None:
    queries = parts[1], index[1]
  else:
    kept, numbers = _kept(test, data)
    (part,), (number,) = prepare.split(kept, data.seed, data.queries)
    queries = part, numbers[number]
  return tuple(zip(train, queries, strict=True))


def _kept(rows, data):
  """(the rows of the first `data.classes` classes, their numbers)."""
  if data.get('classes'):
    return prepare.of_classes(rows, data.classes)
  return rows, np.arange(rows_lib.count(rows))


def _split(index):
  return dict(zip(('train', 'queries'), index, strict=True))


def _network(config, outputs, shape):
  return networks.network(
    config.model, outputs, shape, config.data.get('vocabulary')
  )
