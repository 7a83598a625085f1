"""python -m experiments.limited_access: see `experiment`."""

from experiments.limited_access import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
