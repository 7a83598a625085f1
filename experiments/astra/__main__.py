"""python -m experiments.astra: see `experiment`."""

from experiments.astra import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
