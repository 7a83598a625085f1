"""An example of a task of one's own: scikit-learn's wines, by a small MLP.

Copy it, and name yours by --config.task=my_module:my_function. A task is a
function of the config that returns (problem, recipe, train, queries); in place
of the recipe stand the models, as a `tda_jax.Run`, where they are trained
already. The config's sections `data`, `model` and `training` are yours to use.
"""

import numpy as np
import optax
from sklearn import datasets

import tda_jax as tda
from tda_jax.models import mlp


def wines(config):
  """178 wines of three growers, 13 measurements each, every third one a query."""
  x, y = datasets.load_wine(return_X_y=True)
  x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
  rows = {'x': x, 'y': y.astype(np.int32)}
  asked = np.arange(len(y)) % 3 == 0
  train, queries = (
    {name: column[kept] for name, column in rows.items()}
    for kept in (~asked, asked)
  )
  init, apply = mlp.mlp(config.model.widths, 3, x.shape[1:])
  training = config.training
  recipe = tda.Recipe(
    init,
    lambda steps: optax.sgd(training.learning_rate),
    lambda steps: optax.constant_schedule(training.learning_rate),
    batch_size=training.batch_size,
    epochs=training.epochs,
  )
  return tda.classification(apply), recipe, train, queries
