"""Arguments of methods and inverses are checked when these are made."""

import pytest

import tda_jax as tda

ARGUMENTS = [  # factory, its arguments, words of the sentence
  (tda.cg, {'tolerance': 1}, 'tolerance=1: give a number above 0 and below 1'),
  (tda.cg, {'tolerance': float('nan')}, 'tolerance=nan'),
  (tda.cg, {'tolerance': -1}, 'tolerance=-1'),
  (tda.cg, {'max_steps': 0}, 'max_steps=0: give a whole number from 1'),
  (tda.cg, {'max_steps': 1.5}, 'max_steps=1.5'),
  (tda.cg, {'batch_size': 'a'}, "batch_size='a'"),
  (tda.cg, {'precondition': 'ekfac'}, "precondition='ekfac': give an Inverse"),
  (tda.cg, {'precondition': tda.grad_dot()}, 'precondition=.*give an Inverse'),
  (tda.cg, {'precondition': tda.Inverse}, 'precondition=.*give an Inverse'),
  (tda.cg, {'damping': None}, 'damping=None: give a finite number'),
  (tda.cg, {'damping': [0.1]}, r'damping=\[0.1\]'),
  (tda.cg, {'damping': True}, 'damping=True'),
  (tda.ekfac, {'damping': float('inf')}, 'damping=inf'),
  (tda.ekfac, {'damping': -0.5}, 'damping=-0.5: give a finite number from 0'),
  (tda.ekfac, {'damping': float('nan')}, 'damping=nan'),
  (tda.ekfac, {'memory_limit': '8GB'}, "memory_limit='8GB'"),
  (tda.astra, {'batch_size': -1}, 'batch_size=-1'),
  (tda.neumann, {'steps': 'a'}, "steps='a'"),
  (tda.arnoldi, {'rank': 2.5, 'damping': 0.1}, 'rank=2.5'),
  (tda.logra, {'rank': 2}, 'rank=2: give two whole numbers'),
  (
    tda.bayesian_influence,
    {'damping': 0.1, 'temperature': 0},
    'temperature=0: give a number above 0',
  ),
  (tda.trackstar, {'mix': 1}, 'mix=1: give a number from 0 to below 1'),
  (tda.trak, {'projection_dim': 2.5}, 'projection_dim=2.5'),
  (
    tda.unrolled,
    {'recipe': None, 'queries_at_once': 0},
    'queries_at_once=0: give a whole number from 1',
  ),
  (tda.additional_step, {'optimizer': 0.1}, 'optimizer=0.1: give one of optax'),
  (tda.classification, {'apply': len, 'only': None}, 'are names, and None is'),
  (
    tda.classification,
    {'apply': len, 'inputs': 3},
    'are names, and 3 is given',
  ),
]


@pytest.mark.parametrize('factory, given, words', ARGUMENTS)
def test_arguments_are_checked_when_a_method_is_made(factory, given, words):
  takes_damping = factory in (tda.cg, tda.astra, tda.neumann)
  with pytest.raises(ValueError, match=words):
    factory(**({'damping': 0.1} if takes_damping else {}) | given)
