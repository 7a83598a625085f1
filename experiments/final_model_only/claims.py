"""Claims of "Final-Model-Only Data Attribution", computed from what was measured.

Differences are paired over queries, with a 95% bootstrap interval.
"""

from experiments.shared.claim import claim as as_claim
from experiments.shared.claim import signed
from tda_jax.evaluation import bootstrap

PAPER = 'final-model-only paper, §5'
EARLY = ('grad_dot', 'grad_cos', 'datainf')  # best early, in the paper
OURS = 'displaced'  # derived in the paper, and not measured there
MATTERS = 0.05  # of a cosine: a change that is more than a trifle


def computed(agreements: dict, points, plotted, turn) -> list[dict]:
  """All claims whose methods were measured, and whose premises are met.

  Args:
    agreements: name -> final_model_only.Found.
    points: [T] epochs of further training.
    plotted: names of the methods, each at the damping that the paper plots.
    turn: [Q], as of `experiment.turn_of_truth`, or None.
  """
  first, last = f'epoch {points[0]:g}', f'epoch {points[-1]:g}'
  shown = {
    name: agreements[name]
    for name in plotted
    if name in agreements and agreements[name].scored.kind != OURS
  }
  out = []
  for name, found in shown.items():
    cosine = found.by_point['cosine']
    early = found.scored.kind in EARLY
    if not early and 'grad_dot' in agreements:
      best = agreements['grad_dot'].by_point['cosine']
      out.append(
        _claim(
          f'at {first} grad_dot agrees better than {name}',
          PAPER,
          'difference of cosines above 0',
          best[0] - cosine[0],
        )
      )
    # What never agreed cannot decay, nor anything where the truth stays.
    long = turn is not None and _above(turn, MATTERS)
    if long and _above(cosine[0]):
      decay = _decays if early else _stays
      out.append(decay(name, cosine, first, last))
  return [
    *out,
    *_averaging(shown),
    *_displacement(agreements, last),
  ]


def _decays(name, cosine, first, last):
  return _claim(
    f'{name} decays with further training',
    PAPER,
    f'cosine at {first} − at {last} above 0',
    cosine[0] - cosine[-1],
  )


def _stays(name, cosine, first, last):
  """Not that no decay is seen, which an interval wide enough would say."""
  return _claim(
    f'{name} decays by less than {MATTERS}',
    PAPER,
    f'cosine at {last} − at {first} above -{MATTERS}',
    cosine[-1] - cosine[0],
    -MATTERS,
  )


def _averaging(shown):
  """By an amount: any mean over seeds raises a cosine that is above 0."""
  out = []
  for name, found in shown.items():
    most = max(found.by_seeds)
    if most > 1 and _above(found.by_seeds[most]):
      out.append(
        _claim(
          f'averaging seeds raises {name} by {MATTERS}',
          PAPER,
          f'best cosine of {most} seeds − of 1 above {MATTERS}',
          found.by_seeds[most] - found.by_seeds[1],
          MATTERS,
        )
      )
  return out


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
    if displaced.scored.kind == OURS
    and displaced.scored.settings['inverse'] == plain.scored.settings
  ]


def _claim(claim, source, expected, gap, above=0.0):
  mean = bootstrap.of_queries(gap)
  return as_claim(claim, source, expected, signed(mean), mean.low > above)


def _above(values, least=0.0) -> bool:
  """Whether the mean over queries is above `least`, by its interval."""
  return bool(bootstrap.of_queries(values).low > least)
