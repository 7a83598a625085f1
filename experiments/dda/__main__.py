"""python -m experiments.dda: see `experiment`."""

from experiments.dda import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
