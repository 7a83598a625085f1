"""Training data attribution in JAX: which training rows made a model do this.

problem = tda_jax.classification(apply)
method = tda_jax.influence(tda_jax.cg(0.003))
scores = tda_jax.attribute(method, problem, params, train, queries)  # [N, Q]
"""

from tda_jax.curvature import layers as _layers
from tda_jax.curvature import lora as lora
from tda_jax.curvature.layers import check_independent as check_independent
from tda_jax.curvature.layers import coverage as coverage
from tda_jax.data.rows import with_dropout as with_dropout
from tda_jax.data.subsets import half_subsets as half_subsets
from tda_jax.evaluation.detection import average_precision as average_precision
from tda_jax.evaluation.detection import class_detection as class_detection
from tda_jax.evaluation.detection import mislabel_area as mislabel_area
from tda_jax.evaluation.detection import self_influence as self_influence
from tda_jax.evaluation.further_training import adjusted as adjusted
from tda_jax.evaluation.further_training import (
  further_training as further_training,
)
from tda_jax.evaluation.lds import lds as lds
from tda_jax.evaluation.reliability import ceiling as ceiling
from tda_jax.evaluation.retraining import leave_one_out as leave_one_out
from tda_jax.evaluation.retraining import outcomes as outcomes
from tda_jax.evaluation.retrieval import recall as recall
from tda_jax.evaluation.retrieval import reciprocal_rank as reciprocal_rank
from tda_jax.evaluation.sanity import randomisation as randomisation
from tda_jax.evaluation.sanity import top_k_cardinality as top_k_cardinality
from tda_jax.evaluation.significance import discoveries as discoveries
from tda_jax.evaluation.significance import uncertainty as uncertainty
from tda_jax.evaluation.supporters import Supporters as Supporters
from tda_jax.evaluation.supporters import supporters as supporters
from tda_jax.inverses.arnoldi import arnoldi as arnoldi
from tda_jax.inverses.cg import cg as cg
from tda_jax.inverses.datainf import datainf as datainf
from tda_jax.inverses.dense import dense as dense
from tda_jax.inverses.descent import astra as astra
from tda_jax.inverses.descent import descent as descent
from tda_jax.inverses.descent import lissa as lissa
from tda_jax.inverses.descent import neumann as neumann
from tda_jax.inverses.ekfac import diagonal as diagonal
from tda_jax.inverses.ekfac import ekfac as ekfac
from tda_jax.inverses.ekfac import kfac as kfac
from tda_jax.inverses.ekfac import projected as projected
from tda_jax.inverses.exact import exact as exact
from tda_jax.inverses.inverse import Inverse as Inverse
from tda_jax.inverses.inverse import Solution as Solution
from tda_jax.inverses.inverse import identity as identity
from tda_jax.inverses.inverse import with_residual as with_residual
from tda_jax.methods.additional_step import additional_step as additional_step
from tda_jax.methods.baselines import loss_only as loss_only
from tda_jax.methods.baselines import random as random
from tda_jax.methods.displaced import displaced_influence as displaced_influence
from tda_jax.methods.gradients import grad_cos as grad_cos
from tda_jax.methods.gradients import grad_dot as grad_dot
from tda_jax.methods.influence import influence as influence
from tda_jax.methods.logra import logra as logra
from tda_jax.methods.method import Method as Method
from tda_jax.methods.method import attribute as attribute
from tda_jax.methods.method import ensemble as ensemble
from tda_jax.methods.relatif import relatif as relatif
from tda_jax.methods.representer import representer as representer
from tda_jax.methods.similarity import similarity as similarity
from tda_jax.methods.source import source as source
from tda_jax.methods.tracin import tracin as tracin
from tda_jax.methods.trak import trak as trak
from tda_jax.methods.trak import trak_ensemble as trak_ensemble
from tda_jax.methods.trak import trak_kernel as trak_kernel
from tda_jax.methods.trak import trak_slopes as trak_slopes
from tda_jax.methods.unrolled import contributions as contributions
from tda_jax.methods.unrolled import unrolled as unrolled
from tda_jax.models.convert import from_linen as from_linen
from tda_jax.models.convert import from_nnx as from_nnx
from tda_jax.planning import plan as plan
from tda_jax.problem import Problem as Problem
from tda_jax.problem import binary as binary
from tda_jax.problem import bound as bound
from tda_jax.problem import classification as classification
from tda_jax.problem import multilabel as multilabel
from tda_jax.problem import regression as regression
from tda_jax.run import Run as Run
from tda_jax.scoring import score as score
from tda_jax.scoring import top_k as top_k
from tda_jax.training.distill import distilled as distilled
from tda_jax.training.distill import with_teacher as with_teacher
from tda_jax.training.ensembles import last_checkpoints as last_checkpoints
from tda_jax.training.ensembles import masked as masked
from tda_jax.training.ensembles import repeated as repeated
from tda_jax.training.fit import Member as Member
from tda_jax.training.fit import Recipe as Recipe
from tda_jax.training.members import train as train
from tda_jax.version import __version__ as __version__

find_layers = _layers.find
__all__ = [name for name in dir() if not name.startswith('_')]
