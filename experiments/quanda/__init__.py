"""Quanda (Bareeva et al. 2024): methods measured from several sides."""

from experiments.quanda.experiment import main as main
