"""Claims of "A Bayesian Approach To Analysing TDA", from what was measured.

A part is {network, rows per class, noise}; a claim takes the mean over the sizes
that both sides have, and says each side's figure.
"""

import numpy as np

from tda_jax.evaluation import significance

PAPER = 'Bayesian TDA paper'
LOCAL = ('influence', 'grad_dot')  # that the paper finds to agree


def computed(found: dict, parts: dict) -> list[dict]:
  """All claims that the parts allow.

  Args:
    found: name -> bayesian_tda.Part.
    parts: name -> its changes of the config.
  """
  every = {'init and batches': {}, 'batches': {}}
  for name, part in found.items():
    noise = 'batches' if _shared(parts[name]) else 'init and batches'
    kind, size = parts[name]['model']['kind'], parts[name]['data']['per_class']
    every[noise].setdefault(kind, {})[size] = part
  own, shared = every['init and batches'], every['batches']
  out = []
  for kind in own:
    out += _sources(kind, own[kind], shared.get(kind, {}))
    out += _lowest(kind, own[kind]) + _agreement(kind, own[kind])
    out += _share(kind, own[kind])
  return out + _networks(own)


def mean_p(scores: np.ndarray) -> tuple[float, float]:
  """Mean over pairs of the code's p, and its jackknife error over seeds."""

  def value(scores):
    return significance.uncertainty(scores, test='deviations').p.mean()

  count = len(scores)
  if count < 3:
    return float(value(scores)), 0.0
  without = [value(np.delete(scores, s, 0)) for s in range(count)]
  return float(value(scores)), float(np.std(without) * (count - 1) ** 0.5)


def _sources(kind, own, shared):
  """p of seeds that differ in all against those of one initialisation."""
  sizes = [size for size in own if size in shared]
  if not sizes:
    return []
  out = []
  for name in own[sizes[0]].scores:
    sides = [
      [mean_p(parts[size].scores[name]) for size in sizes]
      for parts in (own, shared)
    ]
    (a, error_a), (b, error_b) = map(_mean_and_error, sides)
    error = (error_a**2 + error_b**2) ** 0.5
    out.append(
      _claim(
        f'{name}, {kind}: initialisation adds noise to that of batches',
        'mean p(init and batches) − mean p(batches) above 0 by 2 SE',
        f'{a:.3f} − {b:.3f} = {a - b:+.3f} ± {error:.3f}',
        a - b > 2 * error,
      )
    )
  return out


def _lowest(kind, parts):
  """grad_cos has the least noise."""
  first = next(iter(parts.values()))
  if 'grad_cos' not in first.scores:
    return []
  means = {
    name: np.mean([part.by_code[name].p.mean() for part in parts.values()])
    for name in first.scores
  }
  return [
    _claim(
      f'grad_cos has the lowest mean p, {kind}',
      'lowest of all methods',
      ', '.join(f'{name} {value:.3f}' for name, value in means.items()),
      min(means, key=means.get) == 'grad_cos',
    )
  ]


def _agreement(kind, parts):
  """Influence and grad_dot are closer to each other than either to LOO."""
  methods = list(next(iter(parts.values())).scores)
  a, b = LOCAL
  if not {a, b, 'loo'} <= {*methods}:
    return []
  out = []
  for measure in ('pearson', 'spearman'):
    matrix = np.mean(
      [part.correlations[measure, 'mean'] for part in parts.values()], 0
    )
    at = lambda x, y, m=matrix: m[methods.index(x), methods.index(y)]
    both, others = at(a, b), [at(a, 'loo'), at(b, 'loo')]
    out.append(
      _claim(
        f'{a} and {b} agree more with each other than with loo, {kind},'
        f' {measure}',
        'correlation of mean scores above both',
        f'{both:.3f} against {others[0]:.3f} and {others[1]:.3f}',
        both > max(others),
      )
    )
  return out


def _share(kind, parts):
  """Few pairs of leave-one-out are more than noise."""
  shares = {size: _significant(part, 'loo') for size, part in parts.items()
            if 'loo' in part.scores}  # fmt: skip
  if not shares:
    return []
  return [
    _claim(
      f'most leave-one-out effects are noise, {kind}',
      'share of significant pairs (FDR 5%) below half at every size',
      ', '.join(f'{s} per class {v:.1%}' for s, v in shares.items()),
      max(shares.values()) < 0.5,
    )
  ]


def _networks(own):
  """Fewer significant pairs in the larger network."""
  kinds = sorted(own)
  if len(kinds) < 2:
    return []
  small, large = own[kinds[0]], own[kinds[-1]]
  sizes = [size for size in small if size in large]
  out = []
  for name in small[sizes[0]].scores if sizes else ():
    a, b = (
      np.mean([_significant(parts[size], name) for size in sizes])
      for parts in (small, large)
    )
    out.append(
      _claim(
        f'{name}: fewer significant pairs in {kinds[-1]} than in {kinds[0]}',
        'share of significant pairs (FDR 5%) lower',
        f'{b:.1%} against {a:.1%}',
        b < a,
      )
    )
  return out


def _significant(part, name):
  return float(part.by_text[name].significant.mean())


def _mean_and_error(values):
  means, errors = np.array(values).T
  return means.mean(), np.linalg.norm(errors) / len(errors)


def _shared(changes):
  return bool(changes.get('training', {}).get('shared_init', False))


def _claim(claim, expected, observed, holds):
  return {
    'claim': claim,
    'source': PAPER,
    'expected': expected,
    'observed': observed,
    'holds': bool(holds),
  }
