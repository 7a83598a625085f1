"""What an experiment measured of its methods, as result rows."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import logging

from experiments.shared import dampings, ensembles, results, stages
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared.ensembles import Members
from experiments.shared.scored import Scored
from tda_jax.evaluation import agreement, bootstrap, lds, reliability
from tda_jax.evaluation import factors as factors_lib
from tda_jax.evaluation.factors import Factors

RESAMPLES = 300
SIZES = (1, 2, 3, 5, 10, 20, 50)  # of ensembles


class Finding(NamedTuple):
  """One method.

  Attributes:
    factors: `evaluation.factors` of the members' scores.
    single: LDS of its members, mean and interval over queries and subsets; None:
      nothing was retrained.
    ensemble: LDS of the scores by all members together; None likewise.
    sizes, by_size: LDS of ensembles of each size.
    members: how many models.
    facts: of each member: seconds, residuals, damping.
    peak_mb: while it was scored; None if that was done before.
    unit: `Method.unit`.
    again: other query rows -> their factors by the same method.
    scored: what it was made with; None: scores from elsewhere.
  """

  factors: Factors
  single: bootstrap.Estimate | None
  ensemble: bootstrap.Estimate | None
  sizes: list[int]
  by_size: list[bootstrap.Estimate]
  members: int
  facts: list[dict]
  peak_mb: float | None
  unit: str = ''
  again: Callable | None = None
  scored: Scored | None = None


class Truth(NamedTuple):
  """Subsets [M, n], outcomes [M, R, Q], and the ceiling of R repeats."""

  subsets: np.ndarray
  outcomes: np.ndarray
  ceiling: bootstrap.Estimate


def truth(config, task, workdir) -> Truth:
  subsets, outcomes = stages.truth(config, task, workdir)
  top = reliability.ceiling(outcomes, resamples=RESAMPLES)
  return Truth(subsets, outcomes, top.estimate)


def measure(
  config, task, models: Members, true: Truth, workdir
) -> dict[str, Finding]:
  """Scores every method of the config by config.ensemble and takes its LDS.

  Where models have variants, a member is the mean over one model's variants.
  """
  ensemble_members, ending = ensembles.of_config(config, task, models, workdir)
  chosen = dampings.chosen(config, task, models.runs, workdir)
  findings = {}
  for name, scored in scored_lib.of(config).items():
    scored = dampings.resolved(scored, chosen)
    stages.peak_memory(reset=True)
    members = drawn(config, scored, task, ensemble_members, workdir)
    factors, facts = ensembles.scores(
      config, scored, task, members, ending, workdir
    )
    peak, name = stages.peak_memory(), name + ending
    findings[name] = of_scores(factors, true)._replace(
      scored=scored,
      facts=facts,
      peak_mb=peak,
      unit=scores_lib.unit(scored, task),
      again=again(config, name, scored, task, members, workdir),
    )
    logging.info(
      '%s: LDS %.3f single, %.3f ensemble of %d',
      name,
      findings[name].single.value,
      findings[name].ensemble.value,
      findings[name].members,
    )
  return findings


def scored(config, task, models: Members, workdir) -> dict[str, Finding]:
  """The scores of every method, without a ground truth."""
  ensemble_members, ending = ensembles.of_config(config, task, models, workdir)
  findings = {}
  for name, method in scored_lib.of(config).items():
    method = dampings.resolved(method, {})
    members = drawn(config, method, task, ensemble_members, workdir)
    factors, facts = ensembles.scores(
      config, method, task, members, ending, workdir
    )
    findings[name + ending] = without_truth(factors)._replace(
      facts=facts,
      unit=scores_lib.unit(method, task),
      scored=method,
      again=again(config, name + ending, method, task, members, workdir),
    )
  return findings


def drawn(config, scored, task, members: Members, workdir) -> Members:
  """The members that a method is scored of: each as often as it draws anew."""
  if not scored.projections:
    return members
  if members.variants > 1:
    raise ValueError(
      f'methods.{scored.name}.projections={scored.projections}: the models of'
      f' ensemble={config.ensemble!r} have variants already: give'
      ' --config.ensemble=naive'
    )
  times = scored.projections
  return ensembles.make('projections', times, config, task, members, workdir)


def without_truth(factors: Factors) -> Finding:
  """Scores of which no LDS is known."""
  members = len(factors[0])
  return Finding(factors, None, None, [], [], members, [], None)


def again(config, name, scored, task, ensemble_members, workdir):
  """Query rows -> their factors, kept beside those of the task's queries."""
  return lambda queries: ensembles.scores(
    config,
    scored._replace(name=scores_lib.predicted(name, queries)),
    task._replace(queries=queries),
    ensemble_members,
    '',
    workdir,
  )[0]


def gap(a: Finding, b: Finding, kind: str, true: Truth) -> bootstrap.Estimate:
  """LDS of a − LDS of b, over the members that both have scored.

  Args:
    kind: 'single' or 'ensemble'.
  """
  count = min(a.members, b.members)
  outcomes = true.outcomes.mean(1)

  def estimate(f):
    joined = factors_lib.per_model if kind == 'single' else factors_lib.together
    scores = joined([factor[:count] for factor in f.factors])
    return lds.interval(scores, outcomes, true.subsets, resamples=RESAMPLES)

  return bootstrap.difference(estimate(a), estimate(b))


def of_scores(factors: Factors, true: Truth, sizes=SIZES) -> Finding:
  """The LDS of each model's scores, and of ensembles of those `sizes`."""
  outcomes, scores = true.outcomes.mean(1), factors_lib.per_model(factors)
  members = len(scores)
  sizes = [k for k in sizes if k < members] + [members]
  one = lambda s: lds.interval(s, outcomes, true.subsets, resamples=RESAMPLES)
  return Finding(
    factors=factors,
    single=one(scores),
    ensemble=one(factors_lib.together(factors)),
    sizes=sizes,
    by_size=lds.by_size(
      factors, outcomes, true.subsets, sizes, resamples=RESAMPLES
    ),
    members=members,
    facts=[],
    peak_mb=None,
  )


def rows(findings: dict[str, Finding], true: Truth) -> list[dict]:
  """Result rows: LDS single and ensembled with their intervals, residual.

  `seconds` is the median over models of fitting, solving and scoring all pairs
  (the first model's compilation is in it where there is only one).
  """
  out = []
  for name, f in findings.items():
    seconds = [x['seconds'] for x in f.facts]
    cost = {
      'seconds': float(np.median(seconds)) if seconds else None,
      'peak_mb': f.peak_mb,
    }
    out.append({**results.row(name, 'lds_single', f.single, f.members), **cost})
    if f.members > 1:
      out.append(results.row(name, 'lds_ensemble', f.ensemble, f.members))
      if true.ceiling.value > 0:  # else the outcomes hold no signal
        share = bootstrap.ratio(f.ensemble, true.ceiling)
        out.append(results.row(name, 'lds_ensemble/ceiling', share, f.members))
    end = residual(f)
    if end is not None:
      out.append(
        {
          'method': name,
          'metric': 'relative_residual',
          'value': end,
          'n': f.members,
        }
      )
    damping = [x['damping'] for x in f.facts if x.get('damping')]
    if damping:
      out.append(
        {
          'method': name,
          'metric': 'damping',
          'value': float(np.mean(damping)),
          'n': f.members,
        }
      )
  out.append(results.row('perfect predictor', 'ceiling', true.ceiling, None))
  return out


def of_repeats(
  true: Truth, repeats: int
) -> Callable[[bootstrap.Estimate], bootstrap.Estimate] | None:
  """An LDS -> the LDS to expect of that number of repeats.

  None: none is asked for, or the outcomes hold no signal.
  """
  if not repeats or not true.ceiling.value > 0:
    return None
  top = reliability.ceiling(true.outcomes, resamples=1)
  factor = repeats / true.outcomes.shape[1]
  return lambda estimate: reliability.of_repeats(estimate, top, factor)


def of_repeats_rows(findings, true: Truth, repeats: int) -> list[dict]:
  """Result rows: the LDS to expect of that number of repeats (`lds_single@R`)."""
  corrected = of_repeats(true, repeats)
  if corrected is None:
    return []
  return [
    results.row(
      name, f'lds_{kind}@{repeats}', corrected(getattr(f, kind)), f.members
    )
    for name, f in findings.items()
    for kind in ('single', 'ensemble')[: 1 + (f.members > 1)]
  ]


def residual(f: Finding) -> float | None:
  """Mean relative residual at the end of the solve; None if not measured."""
  ends = [x['residual'][-1] for x in f.facts if x.get('residual')]
  return float(np.mean(ends)) if ends else None


def left_out_rows(findings, rows_left, effects) -> list[dict]:
  """Agreement with leave-one-out retraining: Spearman over rows, per query.

  Args:
    rows_left: [L] rows that were left out.
    effects: [L, R, Q], base − left out.
  """
  effect = effects.mean(1)
  out = []
  for name, f in findings.items():
    for metric, of in (
      ('loo_spearman', agreement.spearman),
      ('loo_pearson', agreement.pearson),
    ):
      value = of(factors_lib.together(f.factors)[rows_left], effect)
      mean = bootstrap.of_queries(value, resamples=RESAMPLES)
      out.append(results.row(name, metric, mean, len(rows_left)))
  return out


def same_run_rows(findings, kept, outcomes) -> list[dict]:
  """Result rows of `same_run`."""
  counts = {n: min(f.members, outcomes.shape[1]) for n, f in findings.items()}
  found = same_run(findings, kept, outcomes)
  return [
    results.row(n, 'lds_same_run', mean, counts[n]) for n, mean in found.items()
  ]


def same_run(findings, kept, outcomes) -> dict[str, bootstrap.Estimate]:
  """LDS of each model's scores for its own run repeated without some rows.

  The mean over models.

  Args:
    kept: [M, n] rows of each repetition.
    outcomes: [M, R, Q], of the first R models.
  """
  found = {}
  for name, f in findings.items():
    scores = factors_lib.per_model(f.factors)
    found[name] = bootstrap.average(
      [
        lds.interval(scores[e], outcomes[:, e], kept, resamples=RESAMPLES)
        for e in range(min(f.members, outcomes.shape[1]))
      ]
    )
  return found
