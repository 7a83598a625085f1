"""Scores of many rows: all, streamed to disk; the strongest; self-influence."""

from tda_jax.scoring.about import about_of as about_of
from tda_jax.scoring.diagonal import self_influence as self_influence
from tda_jax.scoring.fits import fit as fit
from tda_jax.scoring.models import by_model as by_model
from tda_jax.scoring.models import facts as facts
from tda_jax.scoring.models import kept_uncertainty as kept_uncertainty
from tda_jax.scoring.rescored import rescored as rescored
from tda_jax.scoring.split import parameter_scores as parameter_scores
from tda_jax.scoring.split import token_scores as token_scores
from tda_jax.scoring.streaming import score as score
from tda_jax.scoring.strongest import top_k as top_k
