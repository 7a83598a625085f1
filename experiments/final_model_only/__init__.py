"""Attribution of a model of which only the end is known (Wei et al. 2025)."""

from experiments.final_model_only.experiment import main as main
