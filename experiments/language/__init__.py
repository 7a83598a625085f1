"""Language models: which documents taught one its next tokens."""

from experiments.language.experiment import main as main
