"""Whether the rows that state a fact are ranked first, where it is known which do."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import results
from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.evaluation import bootstrap, retrieval
from tda_jax.evaluation import factors as factors_lib

RANKS = (10, 50)


def measured(task, findings) -> dict[str, dict[str, np.ndarray]]:
  """Method -> metric -> its value for every query, [Q].

  mrr is 1 / the rank of the first supporting row, and recall@k the share of the
  supporting rows among the k strongest; none of a task that does not know them.
  """
  if 'supports' not in (task.known or {}):
    return {}
  supports = np.asarray(task.known['supports'])
  found = {}
  for name, finding in findings.items():
    scores = factors_lib.together(finding.factors)
    found[name] = {'mrr': retrieval.reciprocal_rank(scores, supports)}
    for k in RANKS:
      if k <= len(supports):
        found[name][f'recall@{k}'] = retrieval.recall(scores, supports, k)
  return found


def rows(values: dict[str, dict[str, np.ndarray]], right) -> list[dict]:
  """Result rows: means over queries; of mrr also by what the model says.

  Args:
    values: of `measured`.
    right: of `says_right`, [Q].
  """
  out = []
  for name, of in values.items():
    out += [_row(name, metric, each) for metric, each in of.items()]
    for part, chosen in (('right', right), ('wrong', ~right)):
      if chosen.any():
        out.append(_row(name, f'mrr, says {part}', of['mrr'][chosen]))
  return out


def says_right(task, runs) -> np.ndarray:
  """Whether all targets that count are the first model's likeliest tokens, [Q]."""
  params, frozen = trees.row((runs.params, runs.frozen), 0)
  problem = problem_lib.bound(task.problem, frozen)

  def one(query):
    likeliest = jnp.argmax(problem.outputs(params, query), -1)
    return jnp.all((likeliest == query['targets']) | (query['mask'] == 0))

  queries = jax.tree.map(jnp.asarray, task.queries)
  return np.asarray(jax.lax.map(one, queries))


def _row(name, metric, values):
  return results.row(name, metric, bootstrap.of_queries(values), len(values))
