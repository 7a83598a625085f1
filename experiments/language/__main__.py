"""python -m experiments.language: see `experiment`."""

from experiments.language import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
