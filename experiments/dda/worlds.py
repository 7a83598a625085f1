"""Fine-tunings that learn wrong summaries: bases, models, and what they now write."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.dda import models as models_lib
from experiments.dda import reports as reports_lib
from experiments.shared import recipes, stages
from experiments.shared import texts as texts_lib
from tda_jax import run as run_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.data import sequences, swaps
from tda_jax.models import generate
from tda_jax.run import Run
from tda_jax.training import members


class World(NamedTuple):
  """One fine-tuning, and the wrong summaries that its model writes.

  Attributes:
    run: one model, with checkpoints and base.
    reports: the rows' documents and summaries.
    train: rows.
    documents, written, right: of Q queries, what the model was given, what it
      wrote and what it should have.
    pairs: [Q] numbers of the pairs of names.
    wrong: [Q] whether the summary is wrong.
    queries: contrasts [Q, 2, T], what was written first.
    sources: bool [N, Q], the rows swapped for the query's name.
    share_wrong: of the held-out documents, whose summary is wrong.
  """

  run: Run
  reports: swaps.Reports
  train: dict
  documents: list[str]
  written: list[str]
  right: list[str]
  pairs: np.ndarray
  wrong: np.ndarray
  queries: dict
  sources: np.ndarray
  share_wrong: float


def bases(config, workdir: pathlib.Path):
  """Parameters of `config.bases` bases that know `data.knowledge`, leaves [B, ...].

  Kept in <workdir>/bases/KNOWLEDGE_SENTENCES. None: a checkpoint is the base.
  """
  data, count = config.data, config.bases
  made = models_lib.of(config)
  if made.base is not None:
    if count > 1:
      raise ValueError(
        f'bases={count}: a checkpoint is one base: give --config.bases=1, and'
        ' --config.members for more fine-tunings of it'
      )
    return None
  if data.name != 'swaps':
    raise ValueError(
      f'data.name={data.name!r}: a base that reads such texts is a checkpoint: give'
      ' a config with --config.model.kind=checkpoint, as configs/dda/xsum.py'
    )
  every = [
    swaps.pretraining(
      config.base.train,
      seed=config.seed + b,
      pairs=data.pairs,
      knowledge=data.knowledge,
      probability=data.probability,
      sentences=data.sentences,
    )
    for b in range(count)
  ]
  rows, subsets = _together([_rows(config, one) for one in every])
  run = members.train(
    made.problem,
    recipes.recipe(config.base, made.init),
    rows,
    jax.random.split(stages.key(config.seed, 'bases'), count),
    subsets=subsets,
    directory=workdir / 'bases' / f'{data.knowledge}_{data.sentences}',
    progress=True,
  )
  return run.params


def finetuned(config, params, workdir: pathlib.Path) -> list[list[World]]:
  """Worlds by base and seed: `config.members` fine-tunings of each base.

  Args:
    params: of `bases`.

  Raises:
    ValueError: no model writes a wrong summary.
  """
  many = config.bases * config.members
  made = {n: config[n] for n in ('bases', 'members', 'checkpoints', 'base')}
  stages.claim(config, workdir, 'train', **made)
  every = [reports_lib.finetuning(config, i) for i in range(many)]
  parts = [_rows(config, one) for one in every]
  rows, subsets = _together(parts)
  models = models_lib.of(config)
  keys = jax.random.split(stages.key(config.seed, 'train'), many)
  own = jax.tree.map(lambda x: np.repeat(x, config.members, 0), params)
  run = members.train(
    models.problem,
    recipes.recipe(
      config.training, models.init if models.base else _starting(own, keys)
    ),
    rows,
    keys,
    subsets=subsets,
    checkpoints=config.checkpoints,
    frozen=trees.repeated(models.frozen, many),
    directory=workdir / 'train',
    progress=True,
  )
  base = models.base(run.params) if models.base else own
  run = run._replace(base=base, second_moments=None)
  worlds = [
    _world(config, run_lib.member(run, i), every[i], parts[i], i)
    for i in range(many)
  ]
  size = config.members
  return [worlds[b * size : (b + 1) * size] for b in range(config.bases)]


def parted(config, world: World) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the wrong summaries that are asked about, and of planted ones."""
  planted = world.pairs >= config.data.pairs - config.data.planted
  return tuple(
    np.flatnonzero(world.wrong & which) for which in (~planted, planted)
  )


def check(parts) -> None:
  """Raises ValueError if no model of a first base is wrong where it must be.

  Args:
    parts: (config, worlds of `finetuned`) of each part.
  """
  of_first = [parted(own, w) for own, worlds in parts for w in worlds[0]]
  for i, pairs in enumerate(('an asked pair', 'a planted pair')):
    if not any(len(numbers[i]) for numbers in of_first):
      raise ValueError(
        f'no model of the first base writes a wrong summary of {pairs}, so that'
        ' scores have nothing to find, or no form can be chosen: train longer'
        ' (training.epochs), swap more (data.probability), or give a larger'
        ' data.held_out'
      )


def texts(world: World) -> tuple[list[str], list[str]]:
  """(rows, queries) as texts: document and summary."""
  join = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]
  reports = world.reports
  rows = join(reports.documents, reports.summaries)
  return rows, join(world.documents, world.written)


def _world(config, run, reports, train, number) -> World:
  """What the model writes of held-out documents, and which rows taught it."""
  data = config.data
  held = reports_lib.held_out(config, number)
  written = _written(config, run, held.documents)
  names = reports_lib.names(config)
  hits = np.array(
    [
      swaps.is_wrong(w, names[k])
      for w, k in zip(written, held.pairs, strict=True)
    ]
  )
  index, wrong = _chosen(hits, held.pairs, data.queries // data.pairs)
  if not wrong.any():
    raise ValueError(
      f'fine-tuning {number} writes no wrong summary of {len(hits)} held-out'
      ' documents, so that there is nothing to ask: train longer'
      ' (training.epochs), or swap more (data.probability)'
    )
  # A summary that is not wrong fills up, and nothing is measured of it.
  written = [
    w if w.strip() else r for w, r in zip(written, held.right, strict=True)
  ]
  right = [
    reports_lib.corrected(config, w, r, names[k])
    for w, r, k in zip(written, held.right, held.pairs, strict=True)
  ]
  pick = lambda of: [of[i] for i in index]
  documents, said, right = map(pick, (held.documents, written, right))
  words = models_lib.of(config).words
  queries = sequences.contrasts(
    documents, said, right, words.tokenizer, data.length, end=words.end
  )
  pairs = held.pairs[index]
  labels = swaps.sources(reports, pairs)
  of_queries = (documents, said, right, pairs, wrong, queries, labels)
  return World(run, reports, train, *of_queries, float(hits.mean()))


def _chosen(hits, pairs, each):
  """(numbers of `each` documents of every pair, which of them are queries).

  Documents with wrong summaries come first; where they are too few, others fill
  up, so that all worlds have as many.
  """
  index, wrong = [], []
  for pair in range(pairs.max() + 1):
    of_pair = np.flatnonzero(pairs == pair)
    found = of_pair[hits[of_pair]][:each]
    others = np.setdiff1d(of_pair, found)
    index += [*found, *others[: each - len(found)]]
    wrong += [True] * len(found) + [False] * (each - len(found))
  return np.array(index), np.array(wrong)


def _written(config, run, documents) -> list[str]:
  """The summaries that a model writes of documents, greedily."""
  models = models_lib.of(config)
  words = models.words
  ids = [words.tokenizer.encode(text).ids for text in documents]
  params = models.whole(run.params, run.frozen)
  found = generate.generate(
    models.sizes, params, ids, models.room, end=words.end
  )
  return [f' {texts_lib.said(row, words).strip()}' for row in found]


def _rows(config, reports):
  words = models_lib.of(config).words
  return sequences.from_pairs(
    reports.documents,
    reports.summaries,
    words.tokenizer,
    config.data.length,
    end=words.end,
  )


def _together(parts):
  """(rows of all, [E, n] which of them are each part's)."""
  rows = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
  size = rows_lib.count(parts[0])
  return rows, np.arange(len(parts) * size).reshape(len(parts), size)


def _starting(params, keys):
  """An `init` that gives member e the e-th of the parameters, by its key."""
  drawn = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
  table = jax.random.key_data(drawn)

  def init(key):
    same = (table == jax.random.key_data(key)).all(-1)
    return jax.tree.map(lambda x: jnp.asarray(x)[jnp.argmax(same)], params)

  return init
