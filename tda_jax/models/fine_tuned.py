"""A decoder that others trained, to be trained further: all of it, or adapters.

Its weights are constants of no program. Of the whole model, `init` reads them when
it runs; of LoRA adapters they are `frozen`, an argument wherever the model is.
"""

import fnmatch
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, language
from tda_jax.models import decoder, lora, read_decoder
from tda_jax.models.decoder import Sizes
from tda_jax.problem import Problem
from tda_jax.storage import fingerprint
from tda_jax.trees import PyTree

MATRICES = 'blocks/*/kernel'  # those of attention and perceptrons
EMBEDDING = 'embedding'


class FineTuned(NamedTuple):
  """What is trained, and where it starts.

  Attributes:
    problem: language modelling by the parameters that are trained.
    init: key -> those parameters.
    frozen: of one model, what it has besides them; None: nothing.
    sizes: of the decoder.
    alpha: of the adapters.
  """

  problem: Problem
  init: Callable
  frozen: PyTree
  sizes: Sizes
  alpha: float = 1.0


def read(
  path: str | os.PathLike,
  *,
  rank: int = 0,
  alpha: float = 1.0,
  targets: Sequence[str] = (MATRICES,),
  remat: bool = False,
  leave_out: Sequence[str] = (),
) -> FineTuned:
  """The decoder of a folder or GGUF file (`read_decoder.read`), as scanned blocks.

  Args:
    rank: of LoRA adapters, which alone are trained; 0: the whole model is.
    alpha, targets: see `lora`.
    remat: a block's values are computed again for its gradient, not kept.
    leave_out: of the whole model, see `Problem`. An embedding that is the head too
      and is not left out is held as a leaf by Kronecker methods.

  Raises:
    ValueError: what `read_decoder.read` and `lora.init` refuse.
  """
  params, sizes = read_decoder.read(path)
  sizes = sizes._replace(scanned=True, remat=remat)
  params = jax.tree.map(np.asarray, _stacked(params))
  apply = decoder.decoder(sizes)[1]
  if not rank:
    left_out = any(fnmatch.fnmatch(EMBEDDING, p) for p in leave_out)
    problem = language.language_modeling(
      apply,
      leave_out=tuple(leave_out),
      as_leaf=(EMBEDDING,) if sizes.tied and not left_out else (),
    )
    chosen.split(problem, params)  # a bad pattern is said now
    return FineTuned(problem, _from(params), None, sizes)
  shapes = fingerprint.abstract(params)
  init = lambda key: lora.init(key, shapes, rank, tuple(targets))
  jax.eval_shape(init, jax.random.key(0))  # a bad target is said now
  problem = lora.adapted(language.language_modeling(apply), alpha)
  return FineTuned(problem, init, params, sizes, alpha)


def whole(model: FineTuned, params: PyTree, frozen: PyTree = None) -> PyTree:
  """The decoder's own parameters, adapters merged, for `generate`."""
  if frozen is None:
    return params
  return lora.merge(frozen, params, model.alpha)


def _stacked(params):
  """`decoder.stacked` on the host."""
  with jax.default_device(jax.devices('cpu')[0]):
    return decoder.stacked(params)


def _from(params: PyTree) -> Callable:
  """key -> `params`, read from the host when it runs, whatever the key.

  The digest of them is in the program, and so in its fingerprint.
  """
  shapes = fingerprint.abstract(params)
  digest = np.frombuffer(bytes.fromhex(fingerprint.digest(params)), np.uint32)

  def init(key):
    del key
    return jax.pure_callback(lambda _: params, shapes, jnp.asarray(digest))

  return init
