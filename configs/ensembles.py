"""What `experiments.attribute` and `evaluate` make of a config's models."""

from ml_collections import config_dict


def add(c: config_dict.ConfigDict) -> None:
  """Adds the fields `ensemble` and `lora` to a config that has `training`."""
  c.ensemble = (
    'naive'  # what members the models give (experiments.shared.ensembles)
  )
  c.lora = config_dict.create(
    rank=4,
    alpha=8.0,
    targets=('*/kernel',),  # paths of the matrices that get an adapter
    training=c.training.to_dict(),
  )
