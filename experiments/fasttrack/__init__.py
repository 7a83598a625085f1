"""FASTTRACK: which sentences of a corpus support a claim."""

from experiments.fasttrack.experiment import main as main
