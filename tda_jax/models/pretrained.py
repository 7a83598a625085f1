"""A pretrained vision transformer with LoRA adapters and a new head.

Its parameters are {'adapters', 'head'}: low-rank adapters of the base's queries
and values, and the head. The base is a constant inside the functions, so that
training, retraining and all methods see these parameters only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tda_jax import problem as problem_lib
from tda_jax.models import lora, vit


def network(
  model: Any, outputs: int, shape: Sequence[int]
) -> tuple[Callable, Callable]:
  """(init, apply): (params, x [B, height, width, 1 or channels]) -> [B, outputs].

  Images are resized to the base's side, grey ones repeated over its channels.

  Args:
    model: `config.model`, with fields `kind`, `lora` and those of the kind: 'vit'
      is read from `path`, 'random_vit' has the sizes in `sizes` and random
      weights.

  Raises:
    ValueError: no path; a bad file; images of other channels.
  """
  base, sizes = _base(model)
  if shape[-1] not in (1, sizes.channels):
    raise ValueError(
      f'images of {shape[-1]} channels for a model of {sizes.channels}: give'
      ' images of as many, or grey ones'
    )
  _, applied = vit.vit(outputs, sizes)
  full_problem = problem_lib.classification(applied)._replace(
    outputs=lambda params, example: applied(params, example['x'])
  )
  adapted = lora.adapted(full_problem, model.lora.alpha)

  def init(key):
    first, second = jax.random.split(key)
    kernel = 0.02 * jax.random.normal(second, (sizes.width, outputs))
    return {
      'adapters': lora.init(
        first, base, model.lora.rank, tuple(model.lora.targets)
      ),
      'head': {'kernel': kernel, 'bias': jnp.zeros(outputs)},
    }

  def apply(params, x):
    x = jnp.broadcast_to(x, (*x.shape[:3], sizes.channels))
    x = jax.image.resize(
      x, (len(x), sizes.side, sizes.side, sizes.channels), 'linear'
    )
    frozen = {**base, 'head': params['head']}
    return adapted.outputs(params['adapters'], {'x': x}, frozen)

  return init, apply


def _base(model):
  """(parameters without the head, Sizes)."""
  if model.kind == 'random_vit':
    sizes = vit.Sizes(**model.sizes)
    base = jax.jit(vit.vit(1, sizes)[0])(jax.random.key(0))
  elif not model.path:
    raise ValueError(
      'model.path is empty: give it the path of the model.safetensors of a vision'
      ' transformer, for example of google/vit-base-patch16-224-in21k at'
      ' huggingface.co'
    )
  else:
    base, sizes = vit.read(model.path, model.heads)
  base = jax.tree.map(jnp.asarray, base)
  return {name: x for name, x in base.items() if name != 'head'}, sizes
