"""python -m experiments.final_model_only: see `experiment`."""

from experiments.final_model_only import main
from experiments.shared import launch

if __name__ == '__main__':
  launch.launch(main)
