"""Claims: a paper's finding as a condition on what was measured.

Each function gives the claims that the methods of a run allow; none is typed
in, and one that fails stays with its figures.
"""

import numpy as np

from experiments.shared.claim import claim, signed
from experiments.shared.findings import Finding, Truth, gap, residual
from tda_jax.evaluation import bootstrap

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
  """A set's own curvature against the best sum of scores, of as many models."""
  found = findings['sets_exact']
  sums = {n: f for n, f in findings.items() if f.scored.kind != 'newton'}
  out = []
  for kind in _kinds(found):
    value = lambda f: getattr(f, kind)  # noqa: B023
    equal = [n for n, f in sums.items() if f.members == found.members]
    if not equal:
      continue
    best = max(equal, key=lambda n: value(sums[n]).value)  # noqa: B023
    d = bootstrap.difference(value(found), value(sums[best]))
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
  out = []
  for kind in _kinds(a, e):
    d = gap(a, e, kind, truth)
    out.append(
      claim(
        f"ASTRA > EKFAC at the paper's damping, {kind}",
        f'{PAPER}, Fig. 2',
        'LDS difference above 0',
        signed(d),
        d.low > 0,
      )
    )
  return out


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
  """Steps to reach the residual that the slower one ends with."""
  out = []
  for name in ('astra_paper', 'astra'):
    if name not in findings:
      continue
    a, n = _trace(findings[name]), _trace(findings['neumann'])
    goal = max(min(a[1]), min(n[1]))
    ours, theirs = _steps_to(a, goal), _steps_to(n, goal)
    out.append(
      claim(
        f'{name} needs fewer steps than Neumann for the same residual',
        f'{PAPER}, Fig. 3',
        f'fewer steps to a relative residual of {goal:.3g}',
        f'{ours:.0f} against {theirs:.0f}; at the end'
        f' {a[1][-1]:.3g} against {n[1][-1]:.3g}',
        ours < theirs,
      )
    )
  return out


def low_curvature_matters(config, findings, truth, rows):
  """Projecting on eigenvalues above 10^-i lowers the LDS."""
  out = []
  for f in findings.values():
    least = f.scored.settings.get('project_above')
    if least is None:
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
  """A converged solve against the paper's schedule, same damping and chosen."""
  out = []
  for name in ('exact', 'cg', 'exact_chosen'):
    if name not in findings:
      continue
    for kind in _kinds(findings[name], findings['astra_paper']):
      d = gap(findings[name], findings['astra_paper'], kind, truth)
      out.append(
        claim(
          f"{name} (converged) > ASTRA by the paper's schedule, {kind}",
          'ours',
          'LDS difference above 0',
          signed(d),
          d.low > 0,
        )
      )
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
      d.value >= 0,
    )
  ]


def unrolled_predicts_its_run(config, findings, truth, rows):
  """Exact unrolling for the run that it differentiates; a seed mean is another."""
  of = {r['method']: r for r in rows if r['metric'] == 'lds_same_run'}
  share = f'{config.same_run.dropped:.0%} of the rows'
  value = of['unrolled']['value']
  return [
    claim(
      f'unrolled predicts its own run without {share}',
      'MAGIC, Ilyas & Engstrom 2025',
      'LDS of at least .95',
      f'{value:.3f} [{of["unrolled"]["low"]:.3f}, {of["unrolled"]["high"]:.3f}]',
      value >= 0.95,
    )
  ]


def source_levels(config, findings, truth, rows):
  """The SOURCE paper's .46 and .53 on Fashion-MNIST, with some room."""
  levels = {'single': 0.40, 'ensemble': 0.50}
  value = lambda kind: getattr(findings['source'], kind).value
  return [
    claim(
      f'source, {kind}: LDS at least {level:.2f}',
      'SOURCE paper, Table 2',
      f'{level:.2f}',
      f'{value(kind):.3f}',
      value(kind) >= level,
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
  levels = [
    ('exact', 'single', 0.60),
    ('exact', 'ensemble', 0.71),
    ('ekfac_exact_labels', 'single', 0.55),
  ]
  peers = [
    ('exact', 'single', 0.553, 'pyDVL EKFAC, damping tuned on the queries'),
    ('ekfac', 'single', 0.537, 'kronfluence EKFAC, heuristic damping'),
    ('kfac', 'single', 0.546, 'kronfluence KFAC, heuristic damping'),
  ]
  out = [
    claim(
      f'{name}, {kind}: LDS at least {level:.2f}',
      'ours',
      f'{level:.2f}',
      f'{getattr(findings[name], kind).value:.3f}',
      getattr(findings[name], kind).value >= level,
    )
    for name, kind, level in levels
    if name in findings
  ]
  return out + [
    claim(
      f'{name}, {kind}: above {what}',
      PEERS,
      f'{level:.3f}',
      f'{getattr(findings[name], kind).value:.3f}',
      getattr(findings[name], kind).value > level,
    )
    for name, kind, level, what in peers
    if name in findings
  ]


CLAIMS = {  # name -> (function, methods it needs)
  f.__name__: (f, needs)
  for f, needs in (
    (sets_beat_scores, ('sets_exact',)),
    (astra_beats_ekfac, ('astra_paper', 'ekfac')),
    (gain_grows_with_ensembling, ('astra_paper', 'ekfac')),
    (fewer_steps_than_neumann, ('neumann',)),
    (low_curvature_matters, ('exact',)),
    (converged_beats_early_stopped, ('astra_paper',)),
    (astra_source_beats_source, ('astra_source', 'source')),
    (unrolled_predicts_its_run, ('unrolled',)),
    (source_levels, ('source',)),
    (solvers_agree, ('astra', 'cg', 'exact')),
    (digits_levels, ()),
  )
}


def _trace(f: Finding):
  """(steps, mean residual over members) of a solver."""
  return (
    np.array(f.facts[0]['steps']),
    np.mean([x['residual'] for x in f.facts], 0),
  )


def _steps_to(trace, goal):
  steps, residuals = trace
  reached = residuals <= goal * (1 + 1e-6)
  return steps[np.argmax(reached)] if reached.any() else np.inf


def _kinds(*findings):
  """An ensemble of one model says nothing that the model has not said."""
  several = min(f.members for f in findings) > 1
  return ('single', 'ensemble') if several else ('single',)
