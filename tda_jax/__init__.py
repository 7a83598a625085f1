"""Training data attribution in JAX: which training rows made a model do this.

problem = tda_jax.classification(apply)
method = tda_jax.influence(tda_jax.cg(0.003))
scores = tda_jax.attribute(method, problem, params, train, queries)  # [N, Q]

Here are the verbs, the types, and what makes problems, inverses and methods. All
else is in modules by topic: `tda_jax.evaluation.lds`, `tda_jax.training.ensembles`,
`tda_jax.data.tables`, `tda_jax.models.lora`, `tda_jax.layers.find`, ...
"""

import difflib
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from tda_jax import compiler
from tda_jax.inverses.arnoldi import arnoldi
from tda_jax.inverses.cg import cg
from tda_jax.inverses.datainf import datainf
from tda_jax.inverses.dense import dense
from tda_jax.inverses.descent import astra, descent, lissa, neumann
from tda_jax.inverses.ekfac import diagonal, ekfac, kfac, projected
from tda_jax.inverses.exact import exact
from tda_jax.inverses.inverse import Inverse, Solution, identity, with_residual
from tda_jax.language import language_modeling
from tda_jax.methods.additional_step import additional_step
from tda_jax.methods.baselines import loss_only, random
from tda_jax.methods.bayesian import bayesian_influence
from tda_jax.methods.contrast_pair import contrast_pair
from tda_jax.methods.dda import dda
from tda_jax.methods.displaced import displaced_influence
from tda_jax.methods.fitted import Fitted
from tda_jax.methods.gradients import grad_cos, grad_dot
from tda_jax.methods.influence import influence
from tda_jax.methods.laplace import laplace_influence
from tda_jax.methods.logra import logra
from tda_jax.methods.method import Method, attribute, ensemble
from tda_jax.methods.relatif import relatif
from tda_jax.methods.representer import representer
from tda_jax.methods.sets import newton, predict_sets
from tda_jax.methods.similarity import similarity
from tda_jax.methods.source import source
from tda_jax.methods.tracin import tracin
from tda_jax.methods.trackstar import trackstar
from tda_jax.methods.trak import trak, trak_ensemble, trak_kernel, trak_slopes
from tda_jax.methods.unrolled import unrolled
from tda_jax.planning import plan
from tda_jax.problem import (
  Problem,
  binary,
  classification,
  multilabel,
  regression,
)
from tda_jax.run import Run
from tda_jax.scoring import (
  fit,
  parameter_scores,
  rescored,
  score,
  self_influence,
  token_scores,
  top_k,
)
from tda_jax.training.fit import Member, Recipe
from tda_jax.training.members import train
from tda_jax.version import __version__

compiler.avoid()

if TYPE_CHECKING:  # what LATER imports
  from tda_jax.evaluation.further_training import further_training
  from tda_jax.evaluation.retraining import leave_one_out, outcomes
  from tda_jax.evaluation.supporters import Supporters, supporters
  from tda_jax.models.convert import from_linen, from_nnx

# Imported when first used: they need packages that take long to import.
LATER = {
  'from_linen': 'models.convert',
  'from_nnx': 'models.convert',
  'further_training': 'evaluation.further_training',
  'leave_one_out': 'evaluation.retraining',
  'outcomes': 'evaluation.retraining',
  'supporters': 'evaluation.supporters',
  'Supporters': 'evaluation.supporters',
}
MOVED = {  # a name that was here -> where it is
  'adjusted': 'evaluation.further_training.adjusted',
  'average_precision': 'evaluation.detection.average_precision',
  'bound': 'problem.bound',
  'ceiling': 'evaluation.reliability.ceiling',
  'check_independent': 'layers.find.check_independent',
  'class_detection': 'evaluation.detection.class_detection',
  'contributions': 'methods.unrolled.contributions',
  'coverage': 'layers.find.coverage',
  'discoveries': 'evaluation.significance.discoveries',
  'distilled': 'training.distill.distilled',
  'find_layers': 'layers.find.find',
  'half_subsets': 'data.subsets.half_subsets',
  'last_checkpoints': 'training.ensembles.last_checkpoints',
  'lds': 'evaluation.lds.lds',
  'lora': 'models.lora',
  'masked': 'training.ensembles.masked',
  'mislabel_area': 'evaluation.detection.mislabel_area',
  'randomisation': 'evaluation.sanity.randomisation',
  'recall': 'evaluation.retrieval.recall',
  'reciprocal_rank': 'evaluation.retrieval.reciprocal_rank',
  'repeated': 'training.ensembles.repeated',
  'top_k_cardinality': 'evaluation.sanity.top_k_cardinality',
  'uncertainty': 'evaluation.significance.uncertainty',
  'with_dropout': 'data.rows.with_dropout',
  'with_teacher': 'training.distill.with_teacher',
}
PACKAGES = (
  *('curvature', 'data', 'evaluation', 'inverses', 'layers', 'methods'),
  *('models', 'report', 'scoring', 'sources', 'storage', 'training'),
)

__all__ = [
  '__version__',
  'additional_step',
  'arnoldi',
  'astra',
  'attribute',
  'bayesian_influence',
  'binary',
  'cg',
  'classification',
  'contrast_pair',
  'datainf',
  'dda',
  'dense',
  'descent',
  'diagonal',
  'displaced_influence',
  'ekfac',
  'ensemble',
  'exact',
  'from_linen',
  'from_nnx',
  'fit',
  'Fitted',
  'further_training',
  'grad_cos',
  'grad_dot',
  'identity',
  'influence',
  'Inverse',
  'kfac',
  'language_modeling',
  'laplace_influence',
  'leave_one_out',
  'lissa',
  'logra',
  'loss_only',
  'Member',
  'Method',
  'multilabel',
  'neumann',
  'newton',
  'outcomes',
  'plan',
  'predict_sets',
  'Problem',
  'projected',
  'random',
  'Recipe',
  'regression',
  'relatif',
  'representer',
  'rescored',
  'Run',
  'score',
  'self_influence',
  'similarity',
  'Solution',
  'source',
  'Supporters',
  'supporters',
  'parameter_scores',
  'token_scores',
  'top_k',
  'tracin',
  'trackstar',
  'train',
  'trak',
  'trak_ensemble',
  'trak_kernel',
  'trak_slopes',
  'unrolled',
  'with_residual',
]


def __getattr__(name: str) -> Any:
  """What is imported when first used, and where a name that moved is now."""
  if name in LATER:
    module = importlib.import_module(f'{__name__}.{LATER[name]}')
    value = globals()[name] = getattr(module, name)
    return value
  if name in MOVED:
    warnings.warn(
      f'{__name__}.{name} is {__name__}.{MOVED[name]} now',
      DeprecationWarning,
      stacklevel=2,
    )
    return _at(MOVED[name])
  if name in PACKAGES:
    return importlib.import_module(f'{__name__}.{name}')
  names = (*__all__, *MOVED, *PACKAGES)
  near = difflib.get_close_matches(name, names, 1)
  hint = f': did you mean {near[0]!r}?' if near else ''
  raise AttributeError(f'tda_jax has no {name!r}{hint}')


def __dir__() -> list[str]:
  return sorted({*__all__, *PACKAGES})


def _at(path: str) -> Any:
  """The module, or the function of a module, at a dotted path."""
  try:
    return importlib.import_module(f'{__name__}.{path}')
  except ModuleNotFoundError:
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(f'{__name__}.{module}'), name)
