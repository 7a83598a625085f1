"""Peers on the same weights: kronfluence's EKFAC, a PyTorch training loop.

Needs the extra `peers` (pip install "tda_jax[peers]"); used by
`python -m scripts.benchmark --peers`.
"""

import tempfile
import time

import jax
import numpy as np

from scripts.torch_models import dataset, margins, network, torch

try:
  from kronfluence.analyzer import Analyzer, prepare_model
  from kronfluence.arguments import FactorArguments, ScoreArguments
  from kronfluence.task import Task
except ImportError as error:
  raise SystemExit(
    f'the comparison needs {error.name}: pip install "tda_jax[peers]"'
  ) from None


class Classification(Task):
  """Sum of cross-entropies; measurement: minus the margin."""

  def compute_train_loss(self, batch, model, sample=False):
    logits = model(batch[0])
    labels = batch[1]
    if sample:
      with torch.no_grad():
        labels = torch.multinomial(logits.softmax(-1), 1).flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction='sum')

  def compute_measurement(self, batch, model):
    return -margins(model(batch[0]), batch[1]).sum()


def kronfluence_ekfac(task, run, labels) -> tuple[float, np.ndarray]:
  """(seconds to fit and score all pairs, scores [N, Q]), kronfluence's sign."""
  model = prepare_model(network(run.params), Classification())
  train, queries = dataset(task.train), dataset(task.queries)
  factors = FactorArguments(
    strategy='ekfac', use_empirical_fisher=labels == 'data'
  )
  best = np.inf
  for _ in range(2):  # the first also warms torch up
    with tempfile.TemporaryDirectory() as folder:
      analyzer = Analyzer(
          'compare', model, Classification(), cpu=True, output_dir=folder,
          disable_tqdm=True, disable_model_save=True,
      )  # fmt: skip
      start = time.perf_counter()
      analyzer.fit_all_factors(
        'factors', train, per_device_batch_size=500, factor_args=factors
      )
      analyzer.compute_pairwise_scores(
          'scores', 'factors', queries, train,
          per_device_query_batch_size=200, per_device_train_batch_size=500,
          score_args=ScoreArguments(damping_factor=None),
      )  # fmt: skip
      best = min(best, time.perf_counter() - start)
      scores = analyzer.load_pairwise_scores('scores')['all_modules']
  return best, scores.numpy().T


def torch_training(task, config, models: int) -> float:
  """Seconds to train one model on half the rows, mean over `models`."""
  t = config.training
  x, y = dataset(task.train).tensors
  half = len(x) // 2
  params = task.recipe.init(jax.random.key(0))
  start = time.perf_counter()
  for seed in range(models):
    rng = torch.Generator().manual_seed(seed)
    model = network(params)
    optimizer = torch.optim.SGD(
        model.parameters(), t.learning_rate, momentum=t.momentum,
        weight_decay=t.weight_decay,
    )  # fmt: skip
    steps = t.epochs * (half // t.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
      optimizer, lambda k, n=steps: 1 - k / n
    )
    subset = torch.randperm(len(x), generator=rng)[:half]
    for _ in range(t.epochs):
      order = subset[torch.randperm(half, generator=rng)]
      for rows in order.split(t.batch_size):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
  return (time.perf_counter() - start) / models
