"""Claims of "Final-Model-Only Data Attribution", computed from what was measured.

Differences are paired over queries, with a 95% bootstrap interval.
"""

from experiments import claims
from tda_jax.evaluation import bootstrap

PAPER = 'final-model-only paper, §5'
EARLY = ('grad_dot', 'grad_cos', 'datainf')  # best early, in the paper


def computed(found: dict, points, plotted) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    found: name -> final_model_only.Found.
    points: [T] epochs of further training.
    plotted: names of the methods, each at the damping that the paper plots.
  """
  first, last = f'epoch {points[0]:g}', f'epoch {points[-1]:g}'
  cosines = {name: f.by_point['cosine'] for name, f in found.items()}
  shown = [name for name in plotted if name in found]
  out = []
  for name in shown:
    rise = cosines[name][-1] - cosines[name][0]
    if name.startswith(EARLY):
      out.append(
        _claim(
          f'{name} decays with further training', PAPER,
          f'cosine at {first} − at {last} above 0', -rise,
        )
      )  # fmt: skip
      continue
    if 'grad_dot' in found:
      out.append(
        _claim(
          f'at {first} grad_dot agrees better than {name}', PAPER,
          'difference of cosines above 0',
          cosines['grad_dot'][0] - cosines[name][0],
        )
      )  # fmt: skip
    out.append(
      _claim(
        f'{name} does not decay', PAPER,
        f'cosine at {last} − at {first} not significantly below 0', rise,
        strict=False,
      )
    )  # fmt: skip
  for name in shown:
    by_seeds = found[name].by_seeds
    most = max(by_seeds)
    if most > 1:
      out.append(
        _claim(
          f'averaging seeds matters to {name}', PAPER,
          f'best cosine of {most} seeds − of 1 above 0',
          by_seeds[most] - by_seeds[1],
        )
      )  # fmt: skip
  return out + _displacement(cosines, last)


def _displacement(cosines, last):
  """What Proposition 1's extra term gives, at the same solver and damping."""
  return [
    _claim(
      f'the displacement improves {name.removeprefix("displaced_")}',
      "ours, by the paper's Proposition 1",
      f'difference of cosines at {last} above 0',
      cosines[name][-1] - cosines[name.removeprefix('displaced_')][-1],
    )
    for name in cosines
    if name.startswith('displaced_')
    and name.removeprefix('displaced_') in cosines
  ]


def _claim(claim, source, expected, gap, strict=True):
  mean = bootstrap.of_queries(gap)
  holds = mean.low > 0 if strict else mean.high >= 0
  return claims.claim(claim, source, expected, claims.signed(mean), holds)
