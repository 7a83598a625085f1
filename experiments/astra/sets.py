"""Predictions of sets: what training on a subset does, as rows of their own.

Each entry of config.sets has the arguments of `tda_jax.newton`. A damping 'chosen'
is the one with the best LDS on the validation subsets, of config.damping_grid and
beyond it (`dampings.BEYOND`). What each model predicts is kept in <workdir>/sets/SETTING/NAME/DAMPING/SPLIT/MEMBER.
"""

import functools
import pathlib
import time
import warnings

import numpy as np
import tqdm

from experiments.shared import dampings, stages
from experiments.shared import findings as findings_lib
from experiments.shared import scored as scored_lib
from experiments.shared.findings import RESAMPLES, SIZES, Finding, Truth
from experiments.shared.scored import Scored
from tda_jax import door, parallel, trees
from tda_jax.evaluation import lds, tuning
from tda_jax.methods import registry, sets
from tda_jax.methods.fitted import about_inputs
from tda_jax.storage import fingerprint, record
from tda_jax.storage import scores as store_lib

VALIDATED = 3  # models by which a damping is chosen


def of(config) -> dict[str, Scored]:
  """The entries of config.sets; none where `method` names some methods alone.

  Raises:
    ValueError: an entry is none of `newton`.
  """
  entries = {} if config.method or config.ablation else config.get('sets', {})
  found = {}
  for name, settings in entries.items():
    settings = {'kind': 'newton', **scored_lib.plain(settings)}
    members = settings.pop('members', None)
    found[name] = Scored(name, settings, members=members)
    try:
      _newton(found[name], 1.0)
    except (TypeError, ValueError) as error:
      raise ValueError(f'sets.{name}: {error}') from None
  return found


def measured(config, task, models, truth: Truth, workdir) -> dict[str, Finding]:
  """The LDS of every entry, as findings without scores of rows."""
  findings = {}
  for name, scored in of(config).items():
    runs = models.runs
    count = min(scored.members or config.members, trees.count(runs.params))
    damping = _damping(config, scored, task, runs, count, workdir)
    folder = _folder(config, workdir, name, damping) / 'truth'
    method = _newton(scored, damping)
    predicted, facts = _kept(
      method, task, runs, count, truth.subsets, config.seed, folder
    )
    settings = {**scored.settings, 'damping': damping}
    findings[name] = _finding(predicted, truth)._replace(
      facts=facts, scored=scored._replace(settings=settings)
    )
  return findings


def _newton(scored, damping):
  settings = {**scored.settings}
  settings.pop('kind')
  if settings.get('damping', 'chosen') == 'chosen':
    settings['damping'] = damping
  if precondition := settings.get('precondition'):
    if precondition.get('damping') == 'chosen':
      precondition = {**precondition, 'damping': settings['damping']}
    settings['precondition'] = registry.make_inverse(**precondition)
  return sets.newton(**settings)


def _damping(config, scored, task, runs, count, workdir) -> float:
  """The entry's damping, or that of the best validation LDS, kept with its curve."""
  given = scored.settings.get('damping', 'chosen')
  if given != 'chosen':
    return given
  subsets, outcomes = stages.truth(config, task, workdir, 'validation')
  count = min(count, VALIDATED)

  def value(damping):
    folder = _folder(config, workdir, scored.name, damping) / 'validation'
    method = _newton(scored, damping)
    predicted, _ = _kept(
      method, task, runs, count, subsets, config.seed, folder
    )
    found = lds.of_predictions(predicted.mean(0), outcomes.mean(1))
    return float(found.mean())

  best, curve = tuning.best(value, config.damping_grid, beyond=dampings.BEYOND)
  dampings.log_choice(scored.name, best, curve)
  file = _folder(config, workdir, scored.name, best).parent / 'chosen.json'
  record.write_json(file, {'chosen': best, 'validation_lds': curve})
  return best


def _folder(config, workdir, name, damping) -> pathlib.Path:
  folder = pathlib.Path(workdir) / 'sets' / config.setting
  return (
    folder / record.safe_name(name, 'a name of config.sets') / f'{damping:g}'
  )


def _kept(method, task, runs, count, subsets, seed, folder):
  """(predictions [E, M, Q], facts of each model), those that are there read."""
  predicted, facts = [], []
  label = '/'.join(folder.parts[-3:])  # NAME/DAMPING/SPLIT
  for e in tqdm.trange(count, desc=label, unit='model'):
    run = trees.row(runs._replace(learning_rates=None, steps=None), e)
    key = stages.key(seed, 'sets')
    given = task.problem, run, task.train, task.queries
    entered = door.enter_models(*given, key, many=True)
    about = {
      'kind': 'predictions of sets',
      'method': method.settings.data,
      'queries': fingerprint.digest(entered.queries),
      'subsets': fingerprint.digest(np.asarray(subsets)),
      **about_inputs(task.problem, entered),
    }
    shape = len(subsets), trees.count(entered.queries)
    create = functools.partial(
      store_lib.create, folder / str(e), shape, len(subsets), about
    )
    store, file = parallel.in_turn(create), folder / str(e) / 'facts.json'
    done = file.exists() and store_lib.done(store).all()
    parallel.barrier()  # all have looked before one writes
    if not done:
      begun = time.monotonic()
      with warnings.catch_warnings():  # tables have the residuals
        warnings.simplefilter('ignore', door.NotConverged)
        (found,) = sets.by_member(method, *given, subsets, key)
      facts_of = _facts(found, time.monotonic() - begun)
      if parallel.owner():
        store_lib.write(store, 0, found.values)
        record.write_json(file, facts_of)
      parallel.barrier()
    predicted.append(store_lib.read(store))
    facts.append(record.read_json(file))
  return np.stack(predicted), facts


def _facts(predicted: sets.Predicted, seconds: float) -> dict:
  """Of one model: the mean residual over sets after the last step, and the cost."""
  solution = predicted.solution
  return {
    'seconds': seconds,
    'damping': float(solution.damping.mean()),
    'residual': [float(solution.residuals[-1].mean())],
    'converged': float(solution.converged.mean()),
    'solver_steps': int(solution.steps.max()),
    'gradient': float(predicted.gradient.mean()),
  }


def _finding(predicted, truth) -> Finding:
  """The LDS of predictions [E, M, Q]."""
  outcomes, members = truth.outcomes.mean(1), len(predicted)
  interval = lambda p: lds.interval_of_predictions(
    p, outcomes, resamples=RESAMPLES
  )
  sizes = [k for k in SIZES if k < members] + [members]
  parts = lambda k: [predicted[i : i + k].mean(0) for i in range(0, members, k)]
  whole = lambda k: np.stack([p for p in parts(k)[: members // k]])
  return findings_lib.without_truth((predicted,))._replace(
    factors=(),
    single=interval(predicted),
    ensemble=interval(predicted.mean(0)),
    sizes=sizes,
    by_size=[interval(whole(k)) for k in sizes],
    unit='measure, training on a set',
  )
