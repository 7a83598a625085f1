"""Makes the fixture of tests/models/test_vit.py with the package transformers.

  python -m scripts.random_vit FOLDER

FOLDER/random_vit.safetensors: a ViTForImageClassification of 2 blocks with RANDOM
weights, which knows nothing; FOLDER/random_vit.npz: inputs and what PyTorch makes
of them. Needs torch and transformers; made with 2.13.0 and 5.24.0.
"""

import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification


def main(folder: str) -> None:
  folder = pathlib.Path(folder)
  torch.manual_seed(0)
  config = ViTConfig(
      hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=24, image_size=12, patch_size=4, num_labels=5,
  )  # fmt: skip
  model = ViTForImageClassification(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():  # at the usual start much is 0 or 1
      parameter.add_(0.3 * torch.randn(parameter.shape))
    x = torch.randn(3, 3, 12, 12)
    logits = model(x).logits
  with tempfile.TemporaryDirectory() as saved:
    model.save_pretrained(saved)
    shutil.copy(f'{saved}/model.safetensors', folder / 'random_vit.safetensors')
  x = np.asarray(x.permute(0, 2, 3, 1))
  np.savez_compressed(folder / 'random_vit.npz', x=x, logits=np.asarray(logits))


if __name__ == '__main__':
  main(sys.argv[1])
