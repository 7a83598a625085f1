"""Claims: a paper's finding as a condition on what was measured.

Each function gives the claims that the methods of a run allow; none is typed
in, and one that fails stays with its figures.
"""

import numpy as np

from experiments.shared.claim import claim, signed, spanned
from experiments.shared.findings import (
  Finding,
  Truth,
  gap,
  of_repeats,
  residual,
)
from tda_jax.evaluation import bootstrap

REPORTS, MODELS = 8, 3  # at least, for a claim about the steps of a descent
PAPER = 'ASTRA paper'
PEERS = 'the package, measured in this setting'


def computed(config, findings: dict[str, Finding], truth: Truth, rows) -> list:
  """All claims whose methods were measured."""
  out = []
  for name in config.claims:
    compute, needs = CLAIMS[name]
    if all(n in findings for n in needs):
      out += compute(config, findings, truth, rows)
  return out


def sets_beat_scores(config, findings, truth, rows):
  """A set's own curvature against every sum of scores, of as many models."""
  found = findings['sets_exact']
  sums = _sums(findings)
  gaps = {'single': {}, 'ensemble': {}}
  for name, f in sums.items():
    gaps['single'][name] = bootstrap.difference(found.single, f.single)
    models = min(found.members, f.members)
    if models > 1 and models in found.sizes and models in f.sizes:
      of = [g.by_size[g.sizes.index(models)] for g in (found, f)]
      gaps['ensemble'][name] = bootstrap.difference(*of)
  out = []
  for kind, of_kind in gaps.items():
    if not of_kind:
      continue
    best = min(of_kind, key=lambda name: of_kind[name].value)  # noqa: B023
    d = of_kind[best]
    out.append(
      claim(
        f'predictions of sets > {best}, the best sum of scores, {kind}',
        'ours',
        'LDS difference above 0',
        signed(d),
        d.low > 0,
      )
    )
  return out


def astra_beats_ekfac(config, findings, truth, rows):
  """ASTRA > EKFAC, for single models and ensembled, at the same damping."""
  a, e = findings['astra_paper'], findings['ekfac']
  return _greater(
    "ASTRA > EKFAC at the paper's damping", f'{PAPER}, Fig. 2', a, e, truth
  )


def astra_beats_ekfac_chosen(config, findings, truth, rows):
  """The same where each has the damping that is best for itself."""
  a, e = findings['astra_chosen'], findings['ekfac_chosen']
  what = 'ASTRA > EKFAC, each at its own chosen damping'
  return _greater(what, f'{PAPER}, Fig. 2', a, e, truth)


def gain_grows_with_ensembling(config, findings, truth, rows):
  a, e = findings['astra_paper'], findings['ekfac']
  if len(_kinds(a, e)) < 2:
    return []
  single, ensemble = (gap(a, e, k, truth) for k in ('single', 'ensemble'))
  d = bootstrap.difference(ensemble, single)
  return [
    claim(
      'the gain of ASTRA over EKFAC grows with ensembling',
      f'{PAPER}, §5.1',
      'gain of the ensemble − gain of one model above 0',
      f'{ensemble.value:+.3f} − {single.value:+.3f} = {signed(d)}',
      d.low > 0,
    )
  ]


def fewer_steps_than_neumann(config, findings, truth, rows):
  """Steps to an objective as low as that of the slower one ever is, by model.

  The objective ½xᵀ(G + λ)x − vᵀx is what both descend; a residual weighs the
  directions of large curvature alone, and a good start of it says little. Both
  are asked at the same steps, often enough to tell them apart.
  """
  a, n = findings['astra_paper'], findings['neumann']
  saved, counts = [], []
  for ours, theirs in zip(a.facts, n.facts, strict=False):
    steps = ours['steps']
    traces = [np.asarray(x.get('objective', np.nan)) for x in (ours, theirs)]
    alike = len(steps) > REPORTS and list(steps) == list(theirs['steps'])
    if not alike or not all(np.isfinite(trace).all() for trace in traces):
      return []
    goal = max(trace.min() for trace in traces)
    counts.append([_steps_to(steps, trace, goal) for trace in traces])
    saved.append(counts[-1][1] - counts[-1][0])
  if len(saved) < MODELS:
    return []
  ours, theirs = np.mean(counts, 0)
  return [
    claim(
      'astra_paper needs fewer steps than Neumann for the same objective',
      f'{PAPER}, Fig. 3',
      'steps saved above 0, mean and range over models',
      f'{theirs:.0f} − {ours:.0f} = {np.mean(saved):+.0f}'
      f' [{min(saved):+.0f}, {max(saved):+.0f}]',
      min(saved) > 0,
    )
  ]


def low_curvature_matters(config, findings, truth, rows):
  """Projecting on eigenvalues above 10^-i lowers the LDS.

  Below the damping nothing is left to drop: it is what such directions have.
  """
  out = []
  for f in findings.values():
    least = f.scored.settings.get('project_above')
    if least is None or least <= f.scored.settings['damping']:
      continue
    d = gap(f, findings['exact'], 'single', truth)
    out.append(
      claim(
        f'dropping eigendirections below {least:g} hurts',
        f'{PAPER}, Fig. 4',
        'LDS difference below 0',
        signed(d),
        d.high < 0,
      )
    )
  return out


def converged_beats_early_stopped(config, findings, truth, rows):
  """A converged solve against the paper's schedule, both at the same or chosen."""
  stopped = {n: 'astra_paper' for n in ('exact', 'cg')}
  stopped['exact_chosen'] = 'astra_chosen'
  out = []
  for name, other in stopped.items():
    if name in findings and other in findings:
      what = f"{name} (converged) > ASTRA by the paper's schedule"
      out += _greater(what, 'ours', findings[name], findings[other], truth)
  return out


def astra_source_beats_source(config, findings, truth, rows):
  a, s = findings['astra_source'], findings['source']
  kind = _kinds(a, s)[-1]
  d = gap(a, s, kind, truth)
  return [
    claim(
      f'ASTRA-SOURCE at least SOURCE, {kind}',
      f'{PAPER}, Fig. 2',
      'LDS difference of at least 0',
      signed(d),
      d.low >= 0,
    )
  ]


def unrolled_predicts_its_run(config, findings, truth, rows):
  """Exact unrolling for the run that it differentiates; a seed mean is another."""
  of = {r['method']: r for r in rows if r['metric'] == 'lds_same_run'}
  share = f'{config.same_run.dropped:.0%} of the rows'
  found = of['unrolled']
  return [
    claim(
      f'unrolled predicts its own run without {share}',
      'MAGIC, Ilyas & Engstrom 2025',
      'LDS of at least .95',
      spanned(found['value'], found['low'], found['high'], ''),
      found['low'] >= 0.95,
    )
  ]


def source_levels(config, findings, truth, rows):
  """The SOURCE paper's figures on Fashion-MNIST, by the paper's repeats."""
  levels = {'single': 0.46, 'ensemble': 0.53}
  corrected = of_repeats(truth, config.paper_repeats) or (lambda lds: lds)
  return [
    _at_least(
      f'source, {kind}',
      'SOURCE paper, Table 2',
      corrected(getattr(findings['source'], kind)),
      level,
    )
    for kind, level in levels.items()
  ]


def solvers_agree(config, findings, truth, rows):
  """ASTRA (automatic) and CG against the exact solve at the same damping."""
  out = []
  for name in ('astra', 'cg'):
    d = gap(findings[name], findings['exact'], 'single', truth).value
    out.append(
      claim(
        f'{name} is within .01 LDS of the exact solve',
        'ours',
        'difference of single-model LDS at most .01',
        f'{d:+.4f}',
        abs(d) <= 0.01,
      )
    )
    end = residual(findings[name])
    out.append(
      claim(
        f'{name} converges',
        'ours',
        'mean relative residual at most 1e-2',
        f'{end:.2g}',
        end <= 1e-2,
      )
    )
  return out


def digits_levels(config, findings, truth, rows):
  """The levels measured for this setting before, and the peers' best."""
  levels = (  # method, of what, source, level, whose
    ('exact', 'single', 'ours', 0.60, ''),
    ('exact', 'ensemble', 'ours', 0.71, ''),
    ('ekfac_exact_labels', 'single', 'ours', 0.55, ''),
    (
      'exact',
      'single',
      PEERS,
      0.553,
      'pyDVL EKFAC, damping tuned on the queries',
    ),
    ('ekfac', 'single', PEERS, 0.537, 'kronfluence EKFAC, heuristic damping'),
    ('kfac', 'single', PEERS, 0.546, 'kronfluence KFAC, heuristic damping'),
  )
  return [
    _at_least(f'{name}, {kind}', source, getattr(findings[name], kind), *level)
    for name, kind, source, *level in levels
    if name in findings
  ]


def digits_ceiling(config, findings, truth, rows):
  """How much of what can be predicted is: by sets, and by the best sum of scores."""
  sets = findings['sets_exact']
  sums = _sums(findings)
  best = max(sums, key=lambda name: sums[name].ensemble.value)
  levels = {
    'sets_exact': (sets, 0.92),
    f'{best}, the best sum': (sums[best], 0.84),
  }
  return [
    _at_least(
      f'{name}, of the ceiling',
      'ours',
      bootstrap.ratio(f.ensemble, truth.ceiling),
      level,
    )
    for name, (f, level) in levels.items()
  ]


CLAIMS = {  # name -> (function, methods it needs)
  f.__name__: (f, needs)
  for f, needs in (
    (sets_beat_scores, ('sets_exact',)),
    (astra_beats_ekfac, ('astra_paper', 'ekfac')),
    (astra_beats_ekfac_chosen, ('astra_chosen', 'ekfac_chosen')),
    (gain_grows_with_ensembling, ('astra_paper', 'ekfac')),
    (fewer_steps_than_neumann, ('astra_paper', 'neumann')),
    (low_curvature_matters, ('exact',)),
    (converged_beats_early_stopped, ('astra_paper',)),
    (astra_source_beats_source, ('astra_source', 'source')),
    (unrolled_predicts_its_run, ('unrolled',)),
    (source_levels, ('source',)),
    (solvers_agree, ('astra', 'cg', 'exact')),
    (digits_levels, ()),
    (digits_ceiling, ('sets_exact',)),
  )
}


def _sums(findings):
  """The methods that score rows, of which the scores of a set add up."""
  return {n: f for n, f in findings.items() if f.scored.kind != 'newton'}


def _greater(what, source, a: Finding, b: Finding, truth: Truth) -> list:
  """Claims that a has a larger LDS than b: of one model, and of all together."""
  out = []
  for kind in _kinds(a, b):
    d = gap(a, b, kind, truth)
    expected = 'LDS difference above 0'
    out.append(claim(f'{what}, {kind}', source, expected, signed(d), d.low > 0))
  return out


def _at_least(what, source, value: bootstrap.Estimate, level, of='') -> dict:
  """A claim that an LDS is at least, or that it is above what another has."""
  said, holds = f'LDS at least {level:.2f}', value.low >= level
  if of:
    said, holds = f'above {of}', value.low > level
  return claim(
    f'{what}: {said}',
    source,
    f'above {level:.3f}' if of else f'at least {level:.2f}',
    spanned(*value[:3], ''),
    holds,
  )


def _steps_to(steps, objectives, goal):
  """The first of the steps whose objective is as low as the goal."""
  reached = objectives <= goal + 1e-6 * abs(goal)
  return steps[int(np.argmax(reached))]


def _kinds(*findings):
  """An ensemble of one model says nothing that the model has not said."""
  several = min(f.members for f in findings) > 1
  return ('single', 'ensemble') if several else ('single',)
