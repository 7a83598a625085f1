"""Claims about language models, computed from what was measured.

Differences are of LDS, with a 95% bootstrap interval over queries and subsets. What
is expected is what others measured on GPT-2 and WikiText; here models and texts are
smaller.
"""

from experiments.shared.claim import claim, signed, spanned
from experiments.shared.findings import Finding, Truth, gap
from tda_jax.evaluation import bootstrap

LEADERBOARD = 'leaderboard of bergson 2.5.1, GPT-2'
KRONFLUENCE = 'README of kronfluence, GPT-2'
ASTRA = 'ASTRA paper'
UNROLLED = 0.93  # LDS of MAGIC there, exact unrolling
# (better, worse, whose finding it is): for the same run without 1% of the rows
SAME_RUN = (
  ('unrolled', 'cg', LEADERBOARD),
  ('cg', 'astra', LEADERBOARD),
  ('astra', 'ekfac', LEADERBOARD),
  ('ekfac', 'kfac', LEADERBOARD),
  ('ekfac', 'trackstar', LEADERBOARD),
  ('ekfac', 'bm25', LEADERBOARD),
  ('bm25', 'grad_cos', LEADERBOARD),
  ('bm25', 'trak', LEADERBOARD),
  ('source_adam', 'source', 'ours: the formula of the optimizer that was used'),
)
HALVES = (  # for models of random halves with new seeds
  ('ekfac', 'grad_dot', KRONFLUENCE),
  ('astra', 'ekfac', ASTRA),
)


def computed(
  findings: dict[str, Finding],
  truth: Truth,
  same_run: dict[str, bootstrap.Estimate],
) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    same_run: LDS by method of the models' own runs; empty where none were repeated.
  """
  out = []
  if 'unrolled' in same_run:
    found = same_run['unrolled']
    out.append(
      claim(
        'exact unrolling predicts the same run without some rows',
        LEADERBOARD,
        f'LDS at least {UNROLLED}',
        spanned(*found[:3], sign=''),
        found.value >= UNROLLED,
      )
    )
  for better, worse, source in SAME_RUN:
    if better in same_run and worse in same_run:
      gained = bootstrap.difference(same_run[better], same_run[worse])
      out.append(_better(f'{better} above {worse}, same run', source, gained))
  for better, worse, source in HALVES:
    if better in findings and worse in findings:
      gained = gap(findings[better], findings[worse], 'single', truth)
      name = f'{better} above {worse}, halves and new seeds'
      out.append(_better(name, source, gained))
  return out


def _better(name, source, difference):
  return claim(
    name,
    source,
    'difference of LDS above 0',
    signed(difference),
    difference.low > 0,
  )
