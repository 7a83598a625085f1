"""What a query loses by the rows, or tokens, that a method ranks first for it.

Query loss differences (`evaluation.qld`), per token of the query, of the first
model: its run again without the 1% of the rows that a method ranks first, or of the
training tokens, against runs without as many random ones.
"""

import numpy as np

from experiments.language import tokens as tokens_lib
from experiments.shared import results
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import factors as factors_lib
from tda_jax.evaluation import qld, removal
from tda_jax.evaluation.bootstrap import Estimate

ROWS, TOKENS = 'qld', 'token_qld'  # metrics


def measured(
  config, task, runs, findings, random, workdir
) -> dict[str, dict[str, Estimate]]:
  """Metric -> method -> its mean QLD over the first `config.qld.queries` queries.

  Each query and method takes a training, and each random removal of tokens.

  Args:
    random: [M, R, Q] outcomes of the runs without random rows.
  """
  asked = slice(config.qld.queries)
  queries = rows_lib.take(task.queries, asked)
  counts, share = np.asarray(queries['mask']).sum(-1), config.same_run.dropped
  there = lambda names: [name for name in names if name in findings]

  def outcomes(removed, name, column=None):
    return removal.without(
      task.problem,
      task.recipe,
      task.train,
      queries,
      removed,
      keys=runs.keys[:1],
      path=workdir / name,
      column=column,
      frozen=task.frozen,
      members_at_once=config.truth.members_at_once,
    )

  found = {ROWS: {}, TOKENS: {}}
  for name in there(config.qld.methods):
    scores = factors_lib.per_model(findings[name].factors)[0][:, asked]
    without = outcomes(removal.top(scores, share), f'{ROWS}/{name}')
    found[ROWS][name] = qld.interval(without, random[:, :1, asked], counts)
  names = there(config.qld.token_methods)
  if names:
    mask = np.asarray(task.train['mask'])
    some = removal.at_random(mask, config.qld.random, config.seed, share)
    at_random = outcomes(some, f'{TOKENS}/at_random', 'mask')
  for name in names:
    scores = tokens_lib.scores(config, task, runs, findings[name], queries)
    top = removal.top(scores, share, mask)
    without = outcomes(top, f'{TOKENS}/{name}', 'mask')
    found[TOKENS][name] = qld.interval(without, at_random, counts)
  return found


def rows(losses: dict[str, dict[str, Estimate]]) -> list[dict]:
  """Result rows of `measured`."""
  return [
    results.row(name, metric, value, value.drawn[1])
    for metric, of in losses.items()
    for name, value in of.items()
  ]
