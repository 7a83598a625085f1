"""FASTTRACK: which sentences of a corpus support a claim.

A corpus is indexed by an encoder and clusters; of each claim the candidates are
judged, one by one, by a model that says whether a sentence supports it. A decoder is
trained on the same sentences, and gradient methods are asked about the same claims,
as are BM25 and cosines. A table, results.json, a plot, report.html and evidence.html
in the workdir.
"""

import pathlib

import numpy as np
from scipy.optimize import brentq

from experiments.fasttrack import claims as claims_lib
from experiments.fasttrack import curves, measures
from experiments.fasttrack import judges as judges_lib
from experiments.fasttrack import page as page_lib
from experiments.fasttrack.claims import Costs
from experiments.fasttrack.judges import HELD_OUT, WRONG
from experiments.shared import ensembles, results, tasks
from experiments.shared import findings as findings_lib
from experiments.shared import settings as settings_lib
from tda_jax.data import lexical
from tda_jax.evaluation import factors as factors_lib
from tda_jax.evaluation import retrieval
from tda_jax.tracing import index, trace
from tda_jax.tracing.judges import kept

# Seconds and usage of a claim that was not finished.
UNKNOWN = [None, None, 0, 0]
PAPER_F1 = 0.72


def main(config, workdir: pathlib.Path) -> None:
  """Runs FASTTRACK and its baselines and writes results into the workdir."""
  settings_lib.check(config, 'fasttrack')
  task = tasks.load(config)
  supports = task.known['supports']
  made = judges_lib.encoder_of(config, task.known['sentences'], workdir)
  sentences = task.known['sentences']
  search = judges_lib.searched(config, sentences, made, workdir / 'index')
  judged = judges_lib.judges_of(config, made, workdir)
  traces = {
    name: traced(config, task, search, one, workdir / 'traces')
    for name, one in judged.items()
  }
  findings = of_gradients(config, task, workdir)
  scores = {
    name: factors_lib.together(f.factors) for name, f in findings.items()
  }
  scores |= of_texts(task, search)
  values = {n: measures.of_scores(s, supports) for n, s in scores.items()}
  likely = {n: curves.probabilities(supports, t) for n, t in traces.items()}
  for name, of in likely.items():
    values[name] = measures.of_evidence(of, supports, judged[name].threshold)
  rows = [row for n, of in values.items() for row in measures.rows(n, of)]
  rows += judge_rows(task, judged, likely)
  first = next(iter(judged))
  rows += curves.curve(config, task, search, judged[first], likely[first])
  of_controls, by_way = curves.controls(config, task, search, judged[first])
  rows += of_controls
  costs = cost(config, task, search, judged, traces, findings)
  rows += costs_rows(costs)
  rows += joined_rows(task, likely, judged, scores)
  claims = claims_lib.computed(values, by_way, rows, costs)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims)
  drawn = page_lib.draw(config, rows, workdir / 'plots')
  results.page(config, workdir, __doc__, rows, claims, drawn)
  page_lib.evidence(config, search, traces, scores, workdir / 'evidence.html')


def of_gradients(config, task, workdir) -> dict[str, findings_lib.Finding]:
  """Methods of a decoder trained on the corpus; without methods none is trained."""
  if not config.methods:
    return {}
  models = ensembles.trained(config, task, workdir)
  return findings_lib.scored(config, task, models, workdir)


def traced(config, task, search, judged, folder) -> list[trace.Trace]:
  """The claims' evidence; costs are those of the command that judged it.

  Of a claim that was being judged when a command was killed they are NaN: some of its
  answers are kept, and the command that goes on does not pay for them.
  """
  own = config.tracing
  settings = {'way': own.way, 'budget': own.budget, 'fuzz': own.fuzz}
  about = [settings, search.index.known_by, judged.judge.known_by]
  return [
    _traced(search, claim, judged, settings, folder, about)
    for claim in task.known['claims']
  ]


def _traced(search, claim, judged, settings, folder, about):
  name = kept.name_of([*about, claim])
  costs = kept.read(folder, name)
  if costs is None:
    kept.write(folder, name, UNKNOWN)
  (one,) = trace.trace(
    search, [claim], judged.judge, threshold=judged.threshold, **settings
  )
  if costs is None:
    costs = [*one.seconds, *one.usage]
    kept.write(folder, name, costs)
  seconds = tuple(np.nan if c is None else c for c in costs[:2])
  return one._replace(seconds=seconds, usage=type(one.usage)(*costs[2:]))


def of_texts(task, search) -> dict[str, np.ndarray]:
  """Scores [N, Q] of what texts have in common."""
  claims = [*task.known['claims']]
  train = task.known['sentences']
  queries = index.unit(search.encode(claims), len(claims))
  return {
    'bm25': lexical.indexed(train, form='bm25+')(claims),
    'embedding': search.index.embeddings @ queries.T,
  }


def judge_rows(task, judged, likely) -> list[dict]:
  """What each judge was wrong about, and the F1 that follows from it."""
  out, supports = [], task.known['supports']
  for name, one in judged.items():
    for metric, value in one.quality.items():
      out.append(measures.row(name, metric, value))
    wrong = measures.errors(likely[name], supports, one.threshold)
    seen = np.isfinite(likely[name])
    f1 = retrieval.expected_f1(seen, supports, *wrong)
    if one.quality:
      rates = [one.quality[f'false {of}, {HELD_OUT}'] for of in WRONG]
      before = retrieval.expected_f1(seen, supports, *rates).mean()
      out.append(measures.row(name, f'f1, predicted from {HELD_OUT}', before))
    out += [
      measures.row(name, 'threshold', one.threshold),
      measures.row(name, 'false positives, candidates', wrong[0]),
      measures.row(name, 'false negatives, candidates', wrong[1]),
      measures.row(name, 'f1, predicted', f1.mean(), len(f1)),
    ]
  seen = np.isfinite(likely[next(iter(judged))])
  return [
    *out,
    *_of_errors('candidates', seen, supports),
    *_of_errors('everything', supports | True, supports),
  ]


def _of_errors(what, candidates, supports):
  """F1 by the false positives of a judge, and those that the paper's F1 allows."""
  name = f'a judge of {what} with 5% false negatives'
  f1 = lambda rate: float(
    retrieval.expected_f1(candidates, supports, rate, 0.05).mean()
  )
  out = [
    measures.row(name, f'f1 at {100 * rate:g}% false positives', f1(rate))
    for rate in (0.0, 0.005, 0.01, 0.02, 0.05)
  ]
  if f1(0.0) > PAPER_F1 > f1(0.5):
    rate = brentq(lambda rate: f1(rate) - PAPER_F1, 0.0, 0.5)
    out.append(measures.row(name, f'false positives of F1 {PAPER_F1}', rate))
  return out


def cost(config, task, search, judged, traces, findings) -> Costs:
  """Seconds of FASTTRACK and of TracIn, and what they are made of."""
  first = next(iter(traces))
  seconds = np.array([t.seconds for t in traces[first]])
  facts = findings['tracin'].facts if 'tracin' in findings else []
  return Costs(
    sentences=len(task.known['sentences']),
    claims=len(task.known['claims']),
    checkpoints=config.checkpoints,
    judged=float(np.mean([len(t.judged) for t in traces[first]])),
    query=float(np.nanmean(seconds[:, 0])),
    without_judge=float(np.nanmean(seconds[:, 0] - seconds[:, 1])),
    index=float(sum(search.index.seconds.values())),
    judge=judged[first].seconds,
    tracin=float(facts[0]['seconds']) if facts else None,
    calls=int(sum(t.usage.calls for t in traces[first])),
    tokens=int(sum(t.usage.tokens for t in traces[first])),
  )


def costs_rows(costs: Costs) -> list[dict]:
  """Seconds a claim, and once."""
  of = lambda name, metric, value: measures.row(
    name, metric, value, costs.claims
  )
  out = [
    of('fasttrack', 'seconds a claim', costs.query),
    of('fasttrack', 'seconds a claim, without the judge', costs.without_judge),
    of('fasttrack', 'seconds of the index', costs.index),
    of('fasttrack', 'seconds of the judge, once', costs.judge),
    of('fasttrack', 'calls', costs.calls),
  ]
  if costs.tokens:
    out.append(of('fasttrack', 'tokens', costs.tokens))
  if costs.tracin is not None:
    out.append(of('tracin', 'seconds for all claims', costs.tracin))
    out.append(of('tracin', 'times the seconds of one claim', costs.ratio))
    out.append(of('tracin', 'claims that it is slower up to', costs.until))
  return out


def joined_rows(task, likely, judged, scores) -> list[dict]:
  """Evidence joined with influence: what the model learnt, of what supports.

  For each gradient method: how high it ranks the sentences that the judge chose,
  as the share of all sentences that are below them; and of the judged that the
  judge refused.
  """
  out = []
  name = next(iter(judged))
  says = np.nan_to_num(likely[name], nan=-1.0) >= judged[name].threshold
  refused = np.isfinite(likely[name]) & ~says
  for method in ('ekfac', 'tracin', 'grad_cos'):
    if method not in scores:
      continue
    place = measures.below(scores[method])
    for what, of in (('evidence', says), ('refused candidates', refused)):
      have = of.any(0)
      if have.any():
        mean = np.array(
          [place[of[:, q], q].mean() for q in np.flatnonzero(have)]
        )
        out += measures.rows(
          f'{method}, {what}', {'share of sentences below': mean}
        )
  return out
