"""A user's own task: whose rows made its models say what they say."""

from experiments.own.experiment import main as main
