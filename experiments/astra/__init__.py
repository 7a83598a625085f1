"""ASTRA (Wang et al. 2025): influence functions by every iHVP solver, checked."""

from experiments.astra.experiment import main as main
