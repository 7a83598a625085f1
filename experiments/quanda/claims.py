"""What the Quanda experiment must show, computed from its rows."""

import numpy as np
from scipy import stats

from experiments.shared.claim import claim

SOURCE = 'Quanda'
FEWEST = 5  # seeds, with which a claim on their mean can fail
SIMILAR = ('similarity', 'similarity_dot')
SOLVED = ('exact', 'astra', 'ekfac')


def computed(
  config, measured: dict, by_chance: dict, chances: dict
) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    measured: method -> metric -> Interval.
    by_chance: metric -> values of random scores, one for each seed.
    chances: metric -> what these are expected to be.
  """
  against = {'cleaning': config.cleaning.controls}
  out = [
    at_chance(metric, by_chance[metric], expected, against.get(metric))
    for metric, expected in chances.items()
    if len(by_chance.get(metric, ())) >= FEWEST
  ]
  for name in SIMILAR:
    if name in measured:
      out.append(
        above(measured, name, 'class_detection', 0.9, 'class detection > .9')
      )
  for name in SOLVED:
    if 'mislabel_auc' in measured.get(name, {}):
      out.append(
        above(
          measured,
          name,
          'mislabel_auc',
          0.9,
          'self-influence finds wrong labels',
        )
      )
  return out


def at_chance(
  metric: str, values: np.ndarray, expected: float, against: int | None = None
) -> dict:
  """The expected value is in the 99.7% interval (Student's t) of the mean.

  Args:
    against: how many random controls all values are differences to, whose mean
      is as uncertain as that of as many values.
  """
  share = 1 / len(values) + (1 / against if against else 0)
  error = values.std(ddof=1) * share**0.5
  spread = stats.t.ppf(0.9985, len(values) - 1) * error
  return claim(
    f'random scores are at chance: {metric}',
    SOURCE,
    f'{expected:.4f}, up to the error of the mean of {len(values)} seeds',
    f'{values.mean():.4f} ± {spread:.4f}',
    abs(values.mean() - expected) <= spread,
  )


def above(measured, name: str, metric: str, bound: float, what: str) -> dict:
  interval = measured[name][metric]
  return claim(
    f'{name}: {what}',
    SOURCE,
    f'{metric} above {bound}',
    f'{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]',
    interval.value > bound,
  )
