"""Efficient ensembles (Deng et al. 2024): LDS against what an ensemble costs."""

from experiments.efficient_ensembles.experiment import main as main
