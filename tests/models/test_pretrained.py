"""A vision transformer with LoRA as a model, and its launcher."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import run

from configs.bayesian_tda import vit as config
from tda_jax.models import lora, pretrained, vit

SMOKE = 'configs/bayesian_tda/vit.py:smoke'


@pytest.mark.slow
def test_adapters_and_head_are_what_merging_makes_of_the_base():
  model = config.get_config('smoke').model
  init, apply = pretrained.network(model, 3, (9, 9, 1))
  params = init(jax.random.key(1))
  assert {*params['adapters']} == {
    'Block_0/query/kernel',
    'Block_0/value/kernel',
  }
  drawn = lambda x: jax.random.normal(jax.random.key(x.size), x.shape)
  params = jax.tree.map(drawn, params)
  x = jax.random.normal(jax.random.key(2), (2, 9, 9, 1))
  base, sizes = pretrained._base(model)
  whole = lora.merge(base, params['adapters'], model.lora.alpha)
  large = jax.image.resize(jnp.repeat(x, 3, -1), (2, 16, 16, 3), 'linear')
  expected = vit.vit(3, sizes)[1]({**whole, 'head': params['head']}, large)
  np.testing.assert_allclose(apply(params, x), expected, rtol=1e-3, atol=1e-4)


def test_what_it_needs():
  model = config.get_config().model
  with pytest.raises(
    ValueError, match='give it the path of the model.safetensors'
  ):
    pretrained.network(model, 3, (28, 28, 1))
  model = config.get_config('smoke').model
  with pytest.raises(ValueError, match='images of 2 channels for a model of 3'):
    pretrained.network(model, 3, (28, 28, 2))


@pytest.mark.slow
def test_smoke(tmp_path):
  run('bayesian_tda', SMOKE, tmp_path)
  results = json.loads((tmp_path / 'results.json').read_text())
  values = {(r['method'], r['metric']): r['value'] for r in results['rows']}
  for method in ('loo', 'loo_continued', 'influence', 'grad_dot', 'grad_cos'):
    assert 0 <= values[f'random_vit_4: {method}', 'mean_p'] <= 1
  assert (tmp_path / 'plots' / 'deviation.png').exists()
