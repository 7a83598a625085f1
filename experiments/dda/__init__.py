"""DDA: which rows taught a fine-tuned language model a wrong summary."""

from experiments.dda.experiment import main as main
