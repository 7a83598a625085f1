"""python -m experiments.own: see `experiment`."""

from experiments.own import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
