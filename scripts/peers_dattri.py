"""DataInf and representer points by the PyTorch package dattri, on our weights.

Its DataInf is ∇target · inverse · ∇loss. The target is minus our measure, so
that the sign is ours: positive supports the query. Its representer points have
our sign.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorDataInf
from dattri.algorithm.rps import RPSAttributor
from dattri.task import AttributionTask

from scripts.torch_models import dataset, margins, network, timed

QUERIES = 50  # at once; it holds QUERIES² gradients of a layer


def datainf(task, run, damping: float) -> tuple[float, np.ndarray]:
  """(seconds, scores [N, Q]) of DataInf with one damping in every layer."""
  model = network(run.params)
  train, queries = dataset(task.train), dataset(task.queries)
  loader = torch.utils.data.DataLoader
  # It transforms the queries anew for every batch of rows: one batch.
  train, queries = loader(train, len(train)), loader(queries, QUERIES)

  def loss(params, data):
    logits = torch.func.functional_call(model, params, data[0])
    return torch.nn.functional.cross_entropy(logits, data[1])

  def target(params, data):
    logits = torch.func.functional_call(model, params, data[0])
    return -margins(logits, data[1]).sum()

  def scored():
    given = AttributionTask(loss, model, model.state_dict(), target)
    attributor = IFAttributorDataInf(given, regularization=damping)
    attributor.cache(train)
    return attributor.attribute(train, queries)

  seconds, scores = timed(scored)
  return seconds, scores.detach().numpy()


def representer(task, run, l2: float):
  """(seconds, scores [N, Q]) of RPSAttributor, with (task, run) that it is of.

  It differs from ours in what it explains, not in the formula: α_i (a_i · a_q).

    - It trains the last layer on, from the model's weights towards a stationary
      point of mean loss + (l2/2)‖W‖², and takes α where it stops.
    - The labels of that loss are the model's own softmax, not the data's.
    - It explains the query's own logit; our measure is the margin.
    - It knows no bias: here its features end with a 1, which makes the bias a
      column of W, as ours has it.
    - A mean loss is divided by N once more: its scores are ours over N.

  Ours of the task and the run that are returned is the same thing: that layer,
  those labels and that measure. Its training is not in the seconds.
  """
  model, last = _with_ones(network(run.params))
  train, queries = dataset(task.train), dataset(task.queries)
  # The labels of the training rows are not used.
  loader = torch.utils.data.DataLoader
  train, queries = loader(train, len(train)), loader(queries, len(queries))
  given = AttributionTask(
    torch.nn.functional.cross_entropy, model, model.state_dict()
  )
  attributor = RPSAttributor(given, 'last', l2_strength=l2 / 2)
  attributor.cache(train)
  seconds, scores = timed(lambda: attributor.attribute(train, queries))

  whole = attributor.finetuned_theta.detach().numpy().T
  trained = {'kernel': jnp.asarray(whole[:-1]), 'bias': jnp.asarray(whole[-1])}
  outputs = jax.vmap(task.problem.outputs, (None, 0))(run.params, task.train)
  problem = task.problem._replace(
    loss=lambda z, example: -jnp.vdot(example['y'], jax.nn.log_softmax(z)),
    measure=lambda z, example: z[example['y']],
  )
  soft = {**task.train, 'y': np.asarray(jax.nn.softmax(outputs))}
  same = (
    task._replace(problem=problem, train=soft),
    run._replace(params={**run.params, last: trained}),
  )
  return (seconds, scores.detach().numpy()), same


class Ones(torch.nn.Module):
  def forward(self, x):
    return torch.cat([x, torch.ones_like(x[:, :1])], -1)


def _with_ones(model):
  """(the model with its last bias as a column of `last`, our name of it)."""
  *first, linear = model
  last = torch.nn.Linear(linear.in_features + 1, linear.out_features, False)
  last.weight.data = torch.cat([linear.weight, linear.bias[:, None]], 1).data
  parts = {'first': torch.nn.Sequential(*first, Ones()), 'last': last}
  return (
    torch.nn.Sequential(collections.OrderedDict(parts)),
    f'Dense_{len(first) // 2}',
  )
