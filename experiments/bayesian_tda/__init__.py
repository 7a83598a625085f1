"""How much of a score is noise of training (Nguyen, Seo & Oh 2023)."""

from experiments.bayesian_tda.experiment import main as main
