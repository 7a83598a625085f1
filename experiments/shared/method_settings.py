"""Arguments of a config's methods, checked before anything is trained."""

import inspect

from experiments.shared import grammar, scored, unread
from experiments.shared.rules import (
  choice,
  either,
  flag,
  nothing,
  number,
  several,
  text,
  whole,
)
from experiments.shared.rules import name as name_rule
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import projections
from tda_jax.inverses import coordinates
from tda_jax.methods import dda, relatif, similarity
from tda_jax.methods import registry as methods
from tda_jax.training.fit import Recipe

POSITIVE, NOT_NEGATIVE = number(above=0), number(least=0)
ARGUMENTS = {  # of all kinds; `OF_KIND` has those that differ
  'batch_size': whole(1),
  'labels': choice(*blocks_lib.LABELS),
  'curvature': choice(*coordinates.CURVATURES),
  'tolerance': number(above=0, below=1),
  'max_steps': whole(1),
  'steps': whole(1),
  'rounds': whole(1),
  'reports': whole(1),
  'repeats': whole(1),
  'step_size': either(POSITIVE, nothing()),
  'step_per_damping': either(POSITIVE, nothing()),
  'scale': either(POSITIVE, nothing()),
  'scaled_start': flag,
  'momentum': number(least=0, below=1),
  'decay': number(above=0, most=1),
  'decay_every': whole(1),
  'rank': whole(1),
  'columns': whole(1),
  'queries_at_once': whole(1),
  'memory_limit': POSITIVE,
  'project_above': either(NOT_NEGATIVE, nothing()),
  'residual': flag,
  'segments': whole(1),
  'l2': either(POSITIVE, nothing()),
  'layer': either(text, nothing()),
  'pool': choice(*similarity.POOLS),
  'projection_dim': whole(1),
  'projection': choice(*projections.KINDS),
  'ridge': NOT_NEGATIVE,
  'weighted': flag,
  'norm': choice(*relatif.POWERS),
  'basis': choice('pca', 'random'),
  'second_moments': either(choice('factored', 'whole'), nothing()),
  'mix': number(least=0, below=1),
  'whitened': flag,
  'optimizer': choice(*methods.OPTIMIZERS),
  'learning_rate': POSITIVE,
  'weight_decay': NOT_NEGATIVE,
  'beta': NOT_NEGATIVE,
  'query': choice(*dda.QUERIES),
  'normalised': choice(*dda.NORMALISED),
  'denoise': flag,
  'pooled': flag,
  'rate': POSITIVE,
  'chains': whole(1),
  'draws': whole(1),
  'burn_in': whole(0),
  'temperature': POSITIVE,
}
RANKS = several(whole(1), 2, 2)
OF_KIND = {
  'logra': {'rank': RANKS, 'labels': choice('sampled', 'data')},
  'trackstar': {'rank': RANKS},
}
EXTRA = {  # experiment -> what its methods have beside a kind's arguments
  'astra': {'curve': text},
  'efficient_ensembles': {
    'models': whole(1), 'varied': whole(1), 'variants': whole(1),
  },
  'language': {'projections': whole(1)},
  'limited_access': {'score_loss': choice('own', 'cross_entropy')},
  'quanda': {'without': several(text, least=0)},
}  # fmt: skip
NESTED = ('precondition', 'inverse', 'solver')
# A run by its checkpoints.
FOLLOW = ('tracin', 'source', 'dda', 'contrast_pair')
HEURISTIC = (
  *('diagonal', 'kfac', 'ekfac', 'datainf', 'logra', 'trackstar', 'astra'),
)
STAND_IN = Recipe(*[None] * 6)


def check(config) -> None:
  """Refuses settings that a method of the config could not work with.

  Raises:
    ValueError: one sentence that names the setting, its value and the cure.
  """
  every = {f'methods.{n}': s for n, s in config.methods.items()}
  every |= {f'methods.{n}': s for n, s in scored.named(config).items()}
  chosen = {f'choose.{n}': s for n, s in config.get('choose', {}).items()}
  for path, settings in {**every, **chosen}.items():
    settings = scored.plain(settings)
    name_rule.check(f'the name of {path}', path.partition('.')[2])
    of(config, path, settings)
    if path.startswith('methods'):
      sizes(config, path, settings)
      check_made(path, settings)


def of(config, path: str, settings: dict) -> None:
  """Names, kinds and ranges of one method's settings, nested ones too."""
  kind = settings.get('kind')
  if kind not in methods.KINDS:
    choice(*methods.KINDS).check(f'{path}.kind', kind)
  rules = {**ARGUMENTS, **EXTRA.get(config.experiment, {}), 'members': whole(1)}
  rules |= OF_KIND.get(kind, {})
  for field, value in settings.items():
    where = f'{path}.{field}'
    if field in NESTED:
      if value is not None:
        nested(config, where, value)
    elif field == 'damping':
      damping(config, where, kind, value)
    elif field == 'kind':
      continue
    elif field in rules:
      rules[field].check(where, value)
    elif field not in arguments(kind):  # its function refuses what it must
      raise ValueError(
        f'{where}={value!r}: {kind} has no such setting, but'
        f' {", ".join(arguments(kind)) or "none"}'
      )


def nested(config, path: str, settings) -> None:
  """Settings of a preconditioner, an inverse or a solver."""
  if not isinstance(settings, dict) or 'kind' not in settings:
    raise ValueError(
      f"{path}={settings!r}: give settings, as {{'kind': 'ekfac'}}"
    )
  if settings['kind'] not in methods.INVERSES:
    choice(*methods.INVERSES).check(f'{path}.kind', settings['kind'])
  of(config, path, settings)


def damping(config, path: str, kind: str, value) -> None:
  """A number above 0, 'heuristic' where it is known, or one that is chosen."""
  if isinstance(value, str):
    if value == 'heuristic' and kind in HEURISTIC:
      return
    if value.startswith('chosen'):
      return _chosen(config, path, value)
    try:
      value = float(value)  # a flag's, of a field that was a text
    except ValueError:
      words = "a number above 0, 'heuristic' or 'chosen:NAME'"
      raise ValueError(f'{path}={value!r}: give {words}') from None
  if kind == 'arnoldi':
    return NOT_NEGATIVE.check(path, value)
  if value == 0:
    raise ValueError(
      f'{path}={value!r} leaves a singular curvature (it has more parameters than'
      ' directions in the data): give a number above 0'
    )
  POSITIVE.check(path, value)


def _chosen(config, path, value):
  known = ('mean_square', *config.get('choose', {}))
  try:
    name, argument, factor = grammar.term(value, factors=True)
    POSITIVE.check(path, factor)
  except ValueError:
    raise ValueError(
      f'{path}={value!r}: give a number above 0 after the *'
    ) from None
  if '/' in value:
    now = value.replace('/', ':', 1)
    raise ValueError(f'{path}={value!r}: it is written {now} now')
  if name != 'chosen' or argument not in known:
    raise ValueError(
      f'{path}={value!r}: config.choose has no {argument!r}; give a number, or'
      f' chosen: and one of {", ".join(known)}'
    )


def sizes(config, path: str, settings: dict) -> None:
  """What depends on how many rows and checkpoints there are."""
  if path.partition('.')[2] not in scored.named(config):
    return
  kind, count = settings['kind'], config.checkpoints
  follows = config.experiment != 'limited_access'  # which leaves them out
  follower = kind in FOLLOW and settings.get('denoise', True)
  if follower and not count and follows:
    raise ValueError(
      f'{path} follows a run by its checkpoints, and checkpoints=0: give'
      ' --config.checkpoints=6, say, or other methods by --config.method'
    )
  ensemble = grammar.term(config.get('ensemble') or 'naive').name
  if follower and ensemble == 'checkpoints':
    raise ValueError(
      f'{path} follows a run by its checkpoints, and those of'
      f' ensemble={config.ensemble!r} are members of their own: give other methods'
      ' by --config.method, or --config.ensemble=naive'
    )
  n, size = unread.rows_of(config), settings.get('projection_dim', 512)
  if (
    kind in ('trak', 'trak_kernel')
    and n
    and size > n
    and not settings.get('ridge')
  ):
    raise ValueError(
      f'{path}.projection_dim={size} is above the {n} training rows, so that the'
      f' kernel is singular: give {n} or less, or a ridge above 0'
    )
  segments = settings.get('segments', 3)
  if kind == 'source' and count % segments and follows:
    raise ValueError(
      f'{path}: checkpoints={count} cannot be cut into {segments} equal'
      f' segments: give --config.checkpoints={2 * segments}, say'
    )


def check_made(path: str, settings: dict) -> None:
  """The method can be made of its settings: its function refuses the rest."""
  settings = stated(settings)
  try:
    methods.make(recipe=STAND_IN, **settings)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def stated(settings: dict) -> dict:
  """Settings of the method alone, with 1 for a damping that is yet to come."""

  def plain(field, value):
    if isinstance(value, dict):
      return {f: plain(f, v) for f, v in value.items()}
    open_ = field == 'damping' and isinstance(value, str)
    return 1.0 if open_ and value != 'heuristic' else value

  return {f: plain(f, v) for f, v in settings.items() if f not in scored.FIELDS}


def arguments(kind: str) -> list[str]:
  """Names of the settings that a kind has."""
  function = {**methods.INVERSES, **methods.METHODS}[kind]
  own = inspect.signature(function).parameters
  return [name for name in own if name not in ('kwargs', 'settings', 'recipe')]
