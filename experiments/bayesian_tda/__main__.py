"""python -m experiments.bayesian_tda: see `experiment`."""

from experiments.bayesian_tda import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
