"""python -m experiments.efficient_ensembles: see `experiment`."""

from experiments.efficient_ensembles import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
