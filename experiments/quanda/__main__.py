"""python -m experiments.quanda: see `experiment`."""

from experiments.quanda import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
