"""A claim: a paper's finding as a condition on what was measured."""

import numpy as np

from tda_jax.evaluation import bootstrap
from tda_jax.report import verdicts


def claim(claim: str, source: str, expected: str, observed: str, holds) -> dict:
  """A claim as results.json has it, with its verdict."""
  made = {
    'claim': claim,
    'source': source,
    'expected': expected,
    'observed': observed,
    'holds': bool(holds),
  }
  return {**made, 'verdict': verdicts.verdict(made)}


def signed(estimate: bootstrap.Estimate) -> str:
  """A difference with its interval."""
  return spanned(*estimate[:3])


def spanned(value: float, low: float, high: float, sign: str = '+') -> str:
  """'value [low, high]'; a dash where the spread is not known."""
  if np.isnan(low + high):
    return f'{value:{sign}.3f} –'
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'
