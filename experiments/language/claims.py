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
TRACKSTAR = 'TrackStar paper'
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
# Loss of a query without the rows, or the tokens, that each ranks first.
REMOVED = (
  ('qld', 'unrolled', 'ekfac'),
  ('qld', 'ekfac', 'bm25'),
  ('qld', 'bm25', 'trackstar'),
  ('token_qld', 'cg', 'ekfac'),
)
RETRIEVAL = (  # MRR of the statements of a fact
  ('bm25', 'trackstar', TRACKSTAR),
  ('trackstar', 'trak', TRACKSTAR),
)
HALVES = (  # for models of random halves with new seeds
  ('ekfac', 'grad_dot', KRONFLUENCE),
  ('astra', 'ekfac', ASTRA),
)


def computed(
  findings: dict[str, Finding],
  truth: Truth | None,
  same_run: dict[str, bootstrap.Estimate],
  retrieved: dict[str, dict] | None = None,
  removed: dict[str, dict[str, bootstrap.Estimate]] | None = None,
) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    truth: None: nothing was retrained.
    same_run: LDS by method of the models' own runs; empty where none were repeated.
    retrieved: of `retrieval.measured`.
    removed: of `removed.measured`.
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
        found.low >= UNROLLED,
      )
    )
  for better, worse, source in SAME_RUN:
    if better in same_run and worse in same_run:
      gained = bootstrap.difference(same_run[better], same_run[worse])
      out.append(_better(f'{better} above {worse}, same run', source, gained))
  for better, worse, source in HALVES:
    if truth and better in findings and worse in findings:
      gained = gap(findings[better], findings[worse], 'single', truth)
      name = f'{better} above {worse}, halves and new seeds'
      out.append(_better(name, source, gained))
  for better, worse, source in RETRIEVAL:
    if retrieved and better in retrieved and worse in retrieved:
      gap_of = retrieved[better]['mrr'] - retrieved[worse]['mrr']
      mean = bootstrap.of_queries(gap_of)
      name = f'{better} above {worse}, statements of a fact'
      out.append(_better(name, source, mean, 'difference of MRR above 0'))
  for metric, better, worse in REMOVED:
    of = (removed or {}).get(metric, {})
    if better in of and worse in of:
      name = f'{better} above {worse}, {metric} of the same run'
      more = bootstrap.difference(of[better], of[worse])
      expected = 'difference of nats a token above 0'
      out.append(_better(name, LEADERBOARD, more, expected))
  return out


def _better(name, source, difference, expected='difference of LDS above 0'):
  return claim(
    name,
    source,
    expected,
    signed(difference),
    difference.low > 0,
  )
