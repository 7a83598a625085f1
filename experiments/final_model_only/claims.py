"""Claims of "Final-Model-Only Data Attribution", computed from what was measured.

Differences are paired over queries, with a 95% bootstrap interval.
"""

from experiments.shared.claim import claim as as_claim
from experiments.shared.claim import signed
from tda_jax.evaluation import bootstrap

PAPER = 'final-model-only paper, §5'
EARLY = ('grad_dot', 'grad_cos', 'datainf')  # best early, in the paper


def computed(agreements: dict, points, plotted) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    agreements: name -> final_model_only.Found.
    points: [T] epochs of further training.
    plotted: names of the methods, each at the damping that the paper plots.
  """
  first, last = f'epoch {points[0]:g}', f'epoch {points[-1]:g}'
  cosines = {name: f.by_point['cosine'] for name, f in agreements.items()}
  shown = [name for name in plotted if name in agreements]
  out = []
  for name in shown:
    rise = cosines[name][-1] - cosines[name][0]
    if agreements[name].scored.kind in EARLY:
      out.append(
        _claim(
          f'{name} decays with further training',
          PAPER,
          f'cosine at {first} − at {last} above 0',
          -rise,
        )
      )
      continue
    if 'grad_dot' in agreements:
      out.append(
        _claim(
          f'at {first} grad_dot agrees better than {name}',
          PAPER,
          'difference of cosines above 0',
          cosines['grad_dot'][0] - cosines[name][0],
        )
      )
    out.append(
      _claim(
        f'{name} does not decay',
        PAPER,
        f'cosine at {last} − at {first} not significantly below 0',
        rise,
        strict=False,
      )
    )
  for name in shown:
    by_seeds = agreements[name].by_seeds
    most = max(by_seeds)
    if most > 1:
      out.append(
        _claim(
          f'averaging seeds matters to {name}',
          PAPER,
          f'best cosine of {most} seeds − of 1 above 0',
          by_seeds[most] - by_seeds[1],
        )
      )
  return out + _displacement(agreements, last)


def _displacement(agreements, last):
  """What Proposition 1's extra term gives, at the same solver and damping."""
  return [
    _claim(
      f'the displacement improves {name}',
      "ours, by the paper's Proposition 1",
      f'difference of cosines at {last} above 0',
      displaced.by_point['cosine'][-1] - plain.by_point['cosine'][-1],
    )
    for displaced in agreements.values()
    for name, plain in agreements.items()
    if displaced.scored.kind == 'displaced'
    and displaced.scored.settings['inverse'] == plain.scored.settings
  ]


def _claim(claim, source, expected, gap, strict=True):
  mean = bootstrap.of_queries(gap)
  holds = mean.low > 0 if strict else mean.high >= 0
  return as_claim(claim, source, expected, signed(mean), holds)
