"""What the settings of this experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs.astra import base

METHODS = {
  'trak': {'kind': 'trak', 'projection_dim': 512},
  'grad_dot': {'kind': 'grad_dot', 'variants': 10},
  'grad_cos': {'kind': 'grad_cos', 'variants': 10},
  'ekfac': {'kind': 'ekfac', 'models': 10, 'variants': 10},
}


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; fields that are not here are those of configs/astra/base.py."""
  c = base.config(setting)
  c.experiment = 'efficient_ensembles'
  c.members = 25  # I at most
  c.models = (1, 3, 5, 10, 25)  # I of the grid
  c.variants = (1, 3, 10, 25)  # D of the grid
  c.varied = 25  # I at most where each model has variants
  c.retrained = ()  # M models of halves that datamodels are fitted to
  # experiments.shared.ensembles; 'dropout' also has masks on TRAK's Q factor alone.
  c.ensembles = ('naive', 'dropout:25', 'projections:25')
  c.model.dropout = 0.1
  c.data.queries = 100
  # models, varied, variants: how many are scored; all where it is not said.
  c.methods = METHODS
  c.anchors = False  # whether dattri's bars are of this setting
  return c


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  base.smoke(c)
  c.members, c.models, c.variants = 3, (1, 3), (1, 2)
  c.retrained = (6, 12) if c.retrained else ()
  c.ensembles = tuple(e.split(':')[0] + ':2' * (':' in e) for e in c.ensembles)
  for name in set(c.methods) - {'trak', 'grad_dot'}:
    del c.methods[name]
  for settings in c.methods.values():
    settings.update(models=3, variants=2)
  return c
