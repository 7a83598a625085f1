"""python -m experiments.fasttrack: see `experiment`."""

from experiments.fasttrack import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
