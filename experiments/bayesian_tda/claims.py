"""Claims of "A Bayesian Approach To Analysing TDA", from what was measured.

A part is {network, rows per class, noise}; a claim takes the mean over the sizes
that both sides have, and holds where a difference is above 0 by 2 standard
errors. These are of the jackknife: seed s is left out of all parts at once, since
parts share initialisations and rows. Epochs fall as rows are more (the config).

A pair is noise where its mean over seeds is within one standard deviation of 0.
No claim counts pairs that a test finds significant: with seeds enough it finds
all of them, whatever the noise.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.shared import claim as claims
from tda_jax.evaluation import significance

PAPER = 'Bayesian TDA paper'
LOCAL = ('influence', 'grad_dot')  # that the paper finds to agree
LEAST = 'grad_cos'  # that the paper finds to have the least noise
# Its models start from trained ones: it has no initialisation of its own.
CONTINUED = 'loo_continued'
# Seeds that a claim asks for; where more would tell, none are named.
MOST = 1000


class Numbers(NamedTuple):
  """What the claims compare of one part.

  Attributes:
    p: name of the method -> mean p of the code.
    noise: name -> share of pairs that are noise.
    correlations: kind -> [A, A] of the methods' means.
  """

  p: dict[str, float]
  noise: dict[str, float]
  correlations: dict[str, np.ndarray]


def computed(measured: dict, parts: dict) -> list[dict]:
  """All claims that the parts allow; none for fewer than three seeds.

  Args:
    measured: name -> bayesian_tda.Part.
    parts: name -> its config.
  """
  seeds = min(
    len(s) for part in measured.values() for s in part.scores.values()
  )
  if seeds < 3:
    return []
  replicas = [
    {name: numbers(part.scores, without) for name, part in measured.items()}
    for without in (None, *range(seeds))
  ]
  own_start, shared = {}, {}
  for name in measured:
    model, size = parts[name]['model'], parts[name]['data']['per_class']
    kind, one_start = model['kind'], _shared(parts[name])
    if one_start and model.get('lora'):
      continue  # of adapters: all members start from one trained model anyhow
    of = shared if one_start else own_start
    of.setdefault(kind, {})[size] = name
  methods = list(next(iter(measured.values())).scores)
  out = []
  for kind in own_start:
    names = list(own_start[kind].values())
    out += _sources(
      replicas, methods, kind, own_start[kind], shared.get(kind, {})
    )
    out += _lowest(replicas, methods, kind, names)
    out += _agreement(replicas, methods, kind, names)
    out += _mostly_noise(replicas, methods, kind, names)
  return out + _networks(replicas, methods, own_start)


def numbers(scores: dict[str, np.ndarray], without: int | None) -> Numbers:
  """What the claims compare, from all seeds or from all but one."""
  if without is not None:
    scores = {name: np.delete(s, without, 0) for name, s in scores.items()}
  found = {
    name: significance.uncertainty(s, test='deviations')
    for name, s in scores.items()
  }
  means = np.stack([u.mean for u in found.values()])
  return Numbers(
    {name: u.p.mean() for name, u in found.items()},
    {name: _noise(u) for name, u in found.items()},
    {k: significance.correlations(means, k) for k in ('pearson', 'spearman')},
  )


def mean_p(scores: np.ndarray) -> tuple[float, float, float]:
  """Mean over pairs of the code's p, and ± 2 jackknife errors over seeds.

  The limits are NaN for fewer than three seeds, otherwise within 0 and 1.
  """

  def value(scores):
    return significance.uncertainty(scores, test='deviations').p.mean()

  return _within_one(value, scores)


def noise_share(scores: np.ndarray) -> tuple[float, float, float]:
  """Share of pairs that are noise, and limits as of `mean_p`.

  More seeds make it more exact; they do not drive it to 0 or 1.
  """
  of = lambda some: _noise(significance.uncertainty(some, test='deviations'))
  return _within_one(of, scores)


def relative_deviation(scores: np.ndarray) -> tuple[float, float, float]:
  """Mean over pairs of σ, over the root mean square of μ; and its limits.

  Without unit, so that methods and training sets can be compared: scores carry
  1/N, and each method has a scale of its own. With S seeds of nothing but noise
  it is near √S, which is the most that it can tell. The limits are ± 2 jackknife
  errors of its logarithm, NaN for fewer than three seeds.
  """

  def value(scores):
    mean, deviation = scores.mean(0), scores.std(0, ddof=1)
    return np.log(deviation.mean()) - np.log((mean**2).mean()) / 2

  measured, error = _jackknifed(value, scores)
  return float(np.exp(measured)), *np.exp(
    (measured - 2 * error, measured + 2 * error)
  )


def _noise(of: significance.Uncertainty) -> float:
  """Share of pairs whose |μ| is at most σ; one of zeros alone is such a pair.

  μ² is estimated without bias: the squared mean less its squared error. With the
  squared mean alone few seeds would find fewer pairs.
  """
  squared = of.mean**2 - of.standard_error**2
  return float((squared <= of.deviation**2).mean())


def _within_one(value: Callable, scores: np.ndarray):
  """A share or p of scores, and ± 2 jackknife errors of it, within 0 and 1."""
  measured, error = _jackknifed(value, scores)
  return measured, *np.clip((measured - 2 * error, measured + 2 * error), 0, 1)


def _jackknifed(value: Callable, scores: np.ndarray) -> tuple[float, float]:
  """A function of scores [S, ...], and its jackknife error over seeds."""
  count = len(scores)
  if count < 3:
    return float(value(scores)), float('nan')
  without = [value(np.delete(scores, s, 0)) for s in range(count)]
  return float(value(scores)), _error(without)


def _sources(replicas, methods, kind, own_start, shared):
  """p of seeds that differ in all against those of one initialisation.

  Not of what starts from trained parameters, which are not initialised. Which
  initialisation it is, the jackknife over seeds does not vary.
  """
  sizes = [size for size in own_start if size in shared]

  def side(name, parts):
    return lambda r: np.mean([r[parts[size]].p[name] for size in sizes])

  return [
    _compared(
      f'{name}, {kind}: initialisation adds noise to that of batches',
      'mean p(init and batches) − mean p(batches)',
      replicas,
      side(name, own_start),
      side(name, shared),
    )
    for name in methods
    if sizes and name != CONTINUED
  ]


def _lowest(replicas, methods, kind, names):
  """grad_cos has the least noise."""
  if LEAST not in methods or len(methods) < 2:
    return []
  p = lambda r, method: np.mean([r[name].p[method] for name in names])
  others = [m for m in methods if m != LEAST]
  return [
    _compared(
      f'{LEAST} has the lowest mean p, {kind}',
      'lowest p of the others − its own',
      replicas,
      lambda r: min(p(r, m) for m in others),
      lambda r: p(r, LEAST),
    )
  ]


def _agreement(replicas, methods, kind, names):
  """Influence and grad_dot are closer to each other than either to LOO."""
  a, b = LOCAL
  if not {a, b, 'loo'} <= {*methods}:
    return []

  def between(measure, x, y):
    at = methods.index(x), methods.index(y)
    return lambda r: np.mean([r[n].correlations[measure][at] for n in names])

  return [
    _compared(
      f'{a} and {b} agree more with each other than with loo, {kind},'
      f' {measure}',
      'correlation of their means − the larger with loo',
      replicas,
      between(measure, a, b),
      lambda r, m=measure: max(between(m, x, 'loo')(r) for x in LOCAL),
    )
    for measure in ('pearson', 'spearman')
  ]


def _mostly_noise(replicas, methods, kind, names):
  """Most pairs are noise, by every method but the one of least noise."""
  return [
    _compared(
      f'most pairs are noise by {method}, {kind}',
      'smallest share with |mean| within its deviation, of all sizes, − one half',
      replicas,
      lambda r, m=method: min(r[name].noise[m] for name in names),
      lambda r: 0.5,
    )
    for method in methods
    if method != LEAST
  ]


def _networks(replicas, methods, own_start):
  """More pairs are noise in the larger network."""
  kinds = sorted(own_start)
  small, large = own_start[kinds[0]], own_start[kinds[-1]]
  sizes = [size for size in small if size in large]
  if len(kinds) < 2 or not sizes:
    return []

  def mean(name, parts):
    return lambda r: np.mean([r[parts[size]].noise[name] for size in sizes])

  return [
    _compared(
      f'{name}: more pairs are noise in {kinds[-1]} than in {kinds[0]}',
      f'share of {kinds[-1]} − of {kinds[0]}',
      replicas,
      mean(name, large),
      mean(name, small),
    )
    for name in methods
  ]


def _compared(claim, difference, replicas, left: Callable, right: Callable):
  """The claim that left − right is above 0, of functions of a replica."""
  gap, *others = [left(r) - right(r) for r in replicas]
  a, b = left(replicas[0]), right(replicas[0])
  error = _error(others)
  observed = f'{a:.3f} − {b:.3f} = {gap:+.3f} ± {error:.3f}'
  seeds = len(others) * (2 * error / gap) ** 2 if gap else np.inf
  if len(others) <= seeds < MOST:  # the error falls as 1/√seeds
    observed += f'; {math.ceil(seeds)} seeds would tell such a difference'
  return claims.claim(
    claim, PAPER, f'{difference} above 0 by 2 SE', observed, gap > 2 * error
  )


def _error(without) -> float:
  """Jackknife standard error of what each seed left out gives."""
  return float(np.std(without) * (len(without) - 1) ** 0.5)


def _shared(part):
  return bool(part['training'].get('shared_init', False))
