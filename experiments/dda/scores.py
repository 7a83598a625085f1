"""Scores of a world: of every method at the base and at every checkpoint."""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from experiments.dda import models as models_lib
from experiments.dda import worlds as worlds_lib
from experiments.dda.worlds import World
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import stages
from experiments.shared.tasks import Task
from tda_jax import problem as problem_lib
from tda_jax import scoring, trees
from tda_jax.data import lexical
from tda_jax.data import rows as rows_lib
from tda_jax.run import Run

AT_POINTS = ('grad_dot', 'ekfac', 'dda')  # kinds that are scored at all points
PAIRS = 'contrast_pair'  # the kind whose queries are pairs of outputs
CONTRASTED = ('grad_cos', 'trak')  # kinds of the final model, also of contrasts
NO_TASK = Task(None, None, None, None)


class Scores(NamedTuple):
  """Of one world; a point is the base, then each checkpoint.

  Attributes:
    points: (method, measure) -> [C + 1, N, Q]; measures are 'loss', log p of what
      was written, and 'contrast', less log p of what is right.
    last: (method, measure) -> [N, Q], of the final model.
    alone: name -> [N, Q], of what needs no fine-tuned model.
  """

  points: dict[tuple[str, str], np.ndarray]
  last: dict[tuple[str, str], np.ndarray]
  alone: dict[str, np.ndarray]


def of_world(
  config, world: World, number: int, workdir: pathlib.Path
) -> Scores:
  """All scores of one world, kept in <workdir>/scores.

  Args:
    number: of the world's fine-tuning of its base; a method with `members` is
      scored of that number of them, the first.
  """
  points = _points(world.run)
  last = _one(world.run)
  found = Scores({}, {}, _alone(config, world))
  wrong, right = (
    {n: x[:, i] for n, x in world.queries.items()} for i in (0, 1)
  )
  both = {n: np.concatenate([x, right[n]]) for n, x in wrong.items()}
  for name, scored in scored_lib.of(config).items():
    if scored.members and number >= scored.members:
      continue
    folder = workdir / 'scores' / name
    if scored.kind == PAIRS:
      pairs = _of_pairs(config, scored, world, points, folder)
      found.points[name, 'contrast'] = pairs
    elif scored.kind in AT_POINTS:
      each = _scored(config, scored, world, points, both, folder)
      of_wrong, of_right = np.split(each, 2, -1)
      found.points[name, 'loss'] = of_wrong
      found.points[name, 'contrast'] = of_wrong - of_right
    else:
      asked = {'loss': wrong}
      if scored.kind in CONTRASTED:
        asked['contrast'] = world.queries
      for measure, queries in asked.items():
        own = (world, last, queries, folder / measure)
        found.last[name, measure] = _scored(config, scored, *own)[0]
  return found


def _points(run: Run) -> Run:
  """The base and all checkpoints as members."""
  join = lambda b, c: np.concatenate([np.asarray(b)[None], np.asarray(c)])
  params = jax.tree.map(join, run.base, run.checkpoints)
  return Run(params, frozen=_held(run.frozen, trees.count(params)))


def _one(run: Run) -> Run:
  """The final model as a member."""
  params = jax.tree.map(lambda x: np.asarray(x)[None], run.params)
  return Run(params, frozen=_held(run.frozen, 1))


def _held(frozen, count):
  """What is frozen of one model, for `count` members: views of the same memory."""
  return trees.repeated(jax.tree.map(np.asarray, frozen), count)


def _scored(config, scored, world, runs, queries, folder):
  """[E, N, Q'] of a method by all members of `runs`, kept in `folder`."""
  return np.asarray(
    scoring.score(
      scores_lib.method_of(scored, NO_TASK),
      models_lib.of(config).problem,
      runs,
      world.train,
      queries,
      folder,
      name=scored.name,
      key=stages.key(config.seed, 'scores'),
      batch_size=config.batch_size,
      progress=False,
    )
  )


def _of_pairs(config, scored, world, points, folder):
  """[C + 1, N, Q] of contrast pairs, of the queries of each pair of names."""
  out = np.zeros((trees.count(points.params), *world.sources.shape), np.float32)
  for pair in np.unique(world.pairs):
    which = np.flatnonzero(world.pairs == pair)
    queries = {n: x[which] for n, x in world.queries.items()}
    own = folder / str(pair)
    out[:, :, which] = _scored(config, scored, world, points, queries, own)
  return out


def _alone(config, world):
  """BM25, and the base's loss of each row, which knows no query."""
  rows, queries = worlds_lib.texts(world)
  problem = models_lib.of(config).problem
  losses = _losses(
    problem, world.run.base, world.run.frozen, world.train, config.batch_size
  )
  each = np.repeat(np.asarray(losses)[:, None], len(queries), 1)
  return {'bm25': lexical.bm25(rows, queries), 'base_loss': each}


@functools.partial(jax.jit, static_argnums=(0, 4))
def _losses(problem, params, frozen, rows, size):
  own = problem_lib.bound(problem, frozen)
  each = lambda batch: problem_lib.losses(own, params, batch.examples)
  return rows_lib.each(each, rows, size)
