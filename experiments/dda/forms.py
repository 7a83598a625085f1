"""Every form of DDA, from influence at the base and at each checkpoint."""

import numpy as np

from experiments.dda.scores import Scores


def of_scores(
  scores: Scores, betas: tuple[float, ...]
) -> dict[str, np.ndarray]:
  """Name -> scores [N, Q]; positive is evidence for a source.

  METHOD_MEASURE is of the final model, _base of the base alone, _denoise the mean
  over checkpoints, _debias_BETA the final model less beta times the base, and
  _dda_BETA the mean less it. 'printed' have the paper's literal minus sign.
  """
  found = dict(scores.alone)
  for (name, measure), values in scores.last.items():
    found[f'{name}_{measure}' if name != 'random' else name] = values
  for (name, measure), points in scores.points.items():
    found |= _of_points(f'{name}_{measure}', points, betas)
    if name == 'grad_dot':
      standard = standardised(points)
      mean, base = standard[1:].mean(0), standard[0]
      called = f'standardised_{measure}'
      found[f'{called}_denoise'] = mean
      found |= {f'{called}_dda_{b:g}': mean - b * base for b in betas}
      mean, base = points[1:].mean(0), points[0]
      found[f'printed_{measure}'] = -points[-1]
      found[f'printed_{measure}_dda_1'] = -(mean - base)
  return found


def _of_points(called, points, betas):
  base, last, mean = points[0], points[-1], points[1:].mean(0)
  found = {
    called: last,
    f'{called}_base': base,
    f'{called}_denoise': mean,
  }
  for b in betas:
    found[f'{called}_debias_{b:g}'] = last - b * base
    found[f'{called}_dda_{b:g}'] = mean - b * base
  return found


def standardised(points: np.ndarray) -> np.ndarray:
  """Scores of each point and query with mean 0 and deviation 1 over rows."""
  centred = points - points.mean(1, keepdims=True)
  deviation = centred.std(1, keepdims=True)
  return centred / np.where(deviation == 0, 1, deviation)


def candidates(betas: tuple[float, ...]) -> list[str]:
  """Names among which the defaults are chosen; of equal ones the first wins."""
  return [
    f'{called}_{measure}_{form}'
    for measure in ('contrast', 'loss')
    for called in ('grad_dot', 'standardised')
    for form in ('denoise', *(f'dda_{b:g}' for b in betas))
  ]
