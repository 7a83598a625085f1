"""Networks: a config's section `model` -> (init, apply)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tda_jax.models import cnn, mlp, pretrained, transformer

ACTIVATIONS = {'relu': jax.nn.relu, 'gelu': jax.nn.gelu, 'tanh': jnp.tanh}
CNNS = {  # convolutional networks -> channels and width of SmallCNN, if one
  'lenet': None,
  'resnet9': None,
  'cnn2': ((32, 64), 128),
  'cnn3': ((32, 64, 128), 256),
}
INITS = {
  'he': None,
  'torch': jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'),
}


def network(
  model, outputs: int, shape: tuple[int, ...], vocabulary: int | None = None
) -> tuple[Callable, Callable]:
  """(init, apply) of the network that a section `model` names.

  Args:
    outputs: K.
    shape: of one input.
    vocabulary: words that a transformer's inputs are numbers of.

  Raises:
    ValueError: unknown names; inputs of this shape do not fit it.
  """
  init, apply = _named(model, outputs, shape, vocabulary)
  try:
    jax.eval_shape(init, jax.random.key(0))
  except Exception as error:  # flax's and jax's, of shapes within the network
    raise ValueError(
      f'model.kind={model.kind!r} cannot take inputs of shape'
      f' {list(shape)} ({str(error).splitlines()[0]}): give another kind, or'
      ' other sizes of it'
    ) from None
  return init, apply


def _named(model, outputs, shape, vocabulary):
  dropout = model.get('dropout', 0.0)
  if model.kind == 'mlp':
    activation = model.get('activation', 'relu')
    if activation not in ACTIVATIONS:
      raise ValueError(
        f'unknown activation {activation!r}: use one of {sorted(ACTIVATIONS)}'
      )
    init, activation = _initializer(model), ACTIVATIONS[activation]
    return mlp.mlp(model.widths, outputs, shape, activation, init, dropout)
  if CNNS.get(model.kind) and not dropout:
    init = _initializer(model)
    return cnn.small(outputs, shape, *CNNS[model.kind], kernel_init=init)
  if model.kind == 'lenet':
    return cnn.lenet(outputs, shape, dropout=dropout)
  if model.kind == 'transformer':
    sizes = {n: model[n] for n in ('width', 'heads', 'blocks', 'hidden')}
    return transformer.transformer(
      vocabulary, outputs, *shape, dropout=dropout, **sizes
    )
  if model.kind in ('vit', 'random_vit') and not dropout:
    return pretrained.network(model, outputs, shape)
  if model.kind == 'resnet9' and not dropout:
    return cnn.resnet9(outputs, shape, model.widths, model.groups)
  raise ValueError(
    f'unknown model {model.kind!r} (with dropout={dropout}): use mlp, lenet or'
    f' transformer, or without dropout {", ".join(sorted(CNNS))} or vit'
  )


def _initializer(model):
  if model.init not in INITS:
    raise ValueError(f'unknown init {model.init!r}: use one of {sorted(INITS)}')
  return INITS[model.init]
