"""Grad-Dot and EKFAC of texts by the PyTorch package kronfluence.

It reads all linear layers with their biases, the head too. A query's measurement is its
loss, as a row's is: the scores have our sign.
"""

import tempfile

import numpy as np

from scripts import compare_peers, torch_gpt2

STRATEGIES = {'Grad-Dot': 'identity', 'EKFAC data labels': 'ekfac'}


class Texts(compare_peers.Task):
  """Sums of cross-entropies of the next token; measurement: the same."""

  def compute_train_loss(self, batch, model, sample=False):
    assert not sample  # labels are the data's
    return torch_gpt2.summed_loss(model, *batch)

  def compute_measurement(self, batch, model):
    return self.compute_train_loss(batch, model)


def scores(train: dict, queries: dict, name: str) -> np.ndarray:
  """Scores [N, Q] of one of STRATEGIES."""
  model = compare_peers.prepare_model(torch_gpt2.network(), Texts())
  rows, asked = (torch_gpt2.dataset(of) for of in (train, queries))
  factors = compare_peers.FactorArguments(
    strategy=STRATEGIES[name], use_empirical_fisher=True
  )
  with tempfile.TemporaryDirectory() as folder:
    analyzer = compare_peers.Analyzer(
      'compare', model, Texts(), cpu=True, output_dir=folder,
      disable_tqdm=True, disable_model_save=True,
    )  # fmt: skip
    analyzer.fit_all_factors(
      'factors', rows, per_device_batch_size=len(rows), factor_args=factors
    )
    analyzer.compute_pairwise_scores(
      'scores', 'factors', asked, rows,
      per_device_query_batch_size=len(asked),
      per_device_train_batch_size=len(rows),
      score_args=compare_peers.ScoreArguments(damping_factor=None),
    )  # fmt: skip
    return analyzer.load_pairwise_scores('scores')['all_modules'].numpy().T
