"""Every field of a config, checked before any work: one table of rules.

`check` refuses, in one sentence, a field that no experiment has, a value of
another type or out of range, values that do not go together, and a change that
nothing would read (`experiments.shared.unread`). Methods' own arguments are in
`experiments.shared.method_settings`.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from experiments.shared import (
  arguments,
  grammar,
  method_settings,
  networks,
  recipes,
  scored,
  unread,
  worlds,
)
from experiments.shared import ensembles as ensembles_lib
from experiments.shared.rules import (
  choice,
  flag,
  name,
  number,
  open_share,
  several,
  share,
  text,
  whole,
)
from tda_jax.data import swaps
from tda_jax.evaluation import further_training
from tda_jax.tracing import candidates
from tda_jax.training import distill

EXPERIMENTS = (
  'astra',
  'bayesian_tda',
  'dda',
  'efficient_ensembles',
  'fasttrack',
  'final_model_only',
  'language',
  'limited_access',
  'own',
  'quanda',
)
VARIANTS = {'parts': 'part', 'proxies': 'proxy', 'worlds': 'world'}
SETTINGS = ('methods', 'choose', 'sets')  # of methods, by name

SEED = whole(0, 10**9)  # stages add small numbers to it
POSITIVE = number(above=0)
LORA = {'rank': whole(1), 'alpha': POSITIVE, 'targets': several(text)}
TRAINING = {
  'optimizer': choice(*recipes.OPTIMIZERS),
  'learning_rate': POSITIVE,
  'schedule': choice('constant', 'linear', 'triangular', 'cyclic'),
  'cycles': whole(1),
  'warmup': share,
  'last': share,
  'betas': several(open_share, 2, 2),
  'momentum': number(least=0, below=1),
  'eps_root': number(least=0),
  'weight_decay': number(least=0),
  'batch_size': whole(1),
  'epochs': whole(1),
  'augment': flag,
  'shared_init': flag,
  'distillation.alpha': share,
  'distillation.temperature': POSITIVE,
  'distillation.direction': choice(*distill.DIRECTIONS),
}
SIZES = ('side', 'channels', 'patch', 'width', 'heads', 'blocks', 'hidden')


def _under(section: str, fields: dict) -> dict:
  return {f'{section}.{field}': rule for field, rule in fields.items()}


FIELDS = {
  'experiment': choice(*EXPERIMENTS),
  'setting': name,
  'task': text,
  'ablation': text,
  'anchors': flag,
  'seed': SEED,
  'embedding': text,
  'measure': choice('', 'loss'),
  'score_loss': choice('own', 'cross_entropy'),
  'members': whole(1),
  'checkpoints': whole(0),
  'averaged': whole(1),
  'batch_size': whole(1),
  'false_rate': open_share,
  'ensemble': text,
  'ensembles': several(text),
  'models': several(whole(1)),
  'variants': several(whole(1)),
  'varied': whole(1),
  'retrained': several(whole(3), least=0),
  'method': text,
  'damping': POSITIVE,
  'damping_grid': several(POSITIVE),
  'paper_damping': number(least=0),
  'paper_repeats': whole(0),
  'claims': several(text, least=0),
  'plotted': several(text, least=0),
  'pictured': whole(1),
  'top': whole(1),
  'self_influence_batch_size': whole(1),
  'chance': whole(2),
  'bases': whole(1),
  'betas': several(POSITIVE),
  'chance_retrained': whole(1),
  'examples': whole(0),
  'controlled': several(several(text, 2, 2), least=0),
  'distilled': several(several(text, 2), least=0),
  'unseen': several(text, least=0),
  **_under('data', {
      'name': text, 'path': text, 'seed': SEED, 'train': whole(2),
      'queries': whole(1), 'held_out': whole(0), 'classes': whole(2),
      'per_class': whole(1), 'label_noise': share, 'pool': whole(0),
      'symmetric': flag, 'target': text, 'drop': text, 'classification': flag,
      'one_hot': flag, 'length': whole(1), 'vocabulary': whole(2),
      'paraphrases': whole(1), 'claims': text, 'test': text,
      'names': several(text, least=0), 'words': whole(1),
      **dict.fromkeys(('pairs', 'of_pair', 'planted'), whole(1)),
      **dict.fromkeys(('of_other', 'of_wrong'), whole(0)),
      'probability': open_share, 'partial': share, 'sentences': whole(1, 2),
      'style': choice(*swaps.SUMMARIES), 'knowledge': choice(*swaps.KNOWLEDGE),
      'world': choice('', *worlds.WORLDS), 'worlds.grouped.groups': whole(2),
      'worlds.shortcut.label': whole(0), 'worlds.shortcut.share': share,
      'worlds.shortcut.size': whole(1),
      'worlds.shortcut.corner': several(whole(0), 2, 2),
      'worlds.shortcut.value': several(number(least=0)),
      'worlds.mixed.foreign': choice('photographs', *worlds.FOREIGN),
      'worlds.mixed.path': text, 'worlds.mixed.only': whole(-1),
      'worlds.mixed.share': POSITIVE, 'worlds.mixed.label': whole(0),
      'worlds.mislabelled.fraction': open_share,
  }),
  **_under('model', {
      'kind': choice(*unread.MODELS), 'widths': several(whole(1), least=0),
      'activation': choice(*networks.ACTIVATIONS), 'init': choice(*networks.INITS),
      'groups': whole(1), 'dropout': number(least=0, below=1),
      'width': whole(1), 'heads': whole(1), 'blocks': whole(1),
      'hidden': whole(1), 'path': text, 'tied': flag, 'remat': flag,
      'leave_out': several(text, least=0),
      **_under('lora', {**LORA, 'rank': whole(0)}), **{f'sizes.{s}': whole(1) for s in SIZES},
  }),
  **_under('training', TRAINING),
  **_under('base', {**TRAINING, 'train': whole(2)}),
  **_under('lora', {**LORA, **_under('training', TRAINING)}),
  **_under('truth', {
      'subsets': whole(2), 'validation': whole(2), 'fraction': open_share,
      'repeats': whole(2), 'members_at_once': whole(1),
  }),
  **_under('left_out', {
      'rows': whole(0), 'repeats': whole(0), 'members_at_once': whole(1),
      'continued': POSITIVE,
      'ways': several(choice('loo', 'loo_continued'), least=0),
  }),
  **_under('same_run', {
      'subsets': whole(0), 'dropped': open_share, 'members': whole(0),
  }),
  **_under(
    'qld',
    {
      'methods': several(text, least=0),
      'token_methods': several(text, least=0),
      'queries': whole(1),
      'random': whole(1),
    },
  ),
  **_under('further', {
      **TRAINING, 'points': several(POSITIVE), 'rows': whole(2),
      'repeats': whole(1), 'mode': choice(*further_training.MODES),
      'subtract_mean': flag, 'members_at_once': whole(1),
  }),
  **_under('mislabelled', {
      'fraction': open_share, 'methods': several(text), 'batch_size': whole(1),
  }),
  **_under('brittleness', {
      'scores': several(text), 'removed': whole(1), 'queries': whole(1),
      'repeats': whole(1), 'members_at_once': whole(1),
  }),
  **_under('cleaning', {
      'removed': open_share, 'repeats': whole(1), 'controls': whole(0),
  }),
  **_under('tracing', {
      'encoder': choice('minilm', 'words'), 'path': text, 'most': whole(1),
      'branches': whole(2), 'way': choice(*candidates.WAYS), 'fuzz': whole(1, 100),
      'budget': whole(1), 'budgets': several(whole(1)), 'controls': whole(0),
  }),
  **_under('judge', {
      'kind': choice('trained', 'endpoint'), 'steps': whole(1),
      'batch_size': whole(2), 'learning_rate': POSITIVE, 'blocks': whole(1),
      'length': whole(8), 'sentences': whole(8), 'claims': whole(2),
      'hard': whole(1), 'held_out': open_share, 'model': text, 'calls': whole(0),
      'at_once': whole(1),
  }),
  **_under('report', {'queries': whole(1), 'evidence': whole(1)}),
}  # fmt: skip
OF = {  # where an experiment's field is narrower, or wider
  'own': {'truth.subsets': whole(0)},
  'language': {'truth.subsets': whole(0)},
  'quanda': {'left_out.rows': whole(2), 'left_out.repeats': whole(1)},
}


def check(config, command: str, rules: dict | None = None) -> None:
  """Refuses a config that `command` could not carry out as it is written.

  Args:
    command: name of the experiment or stage that is to run.
    rules: field -> its rule, where the command knows more than FIELDS.

  Raises:
    ValueError: one sentence that names the field, its value and the cure.
  """
  if command in EXPERIMENTS and config.experiment != command:
    raise ValueError(
      f'this config is one of {config.experiment}: run'
      f' experiments.{config.experiment}, or give one of {command}'
    )
  for own, prefix in (config, ''), *variants(config):
    try:
      values(own, prefix, rules)
      together(own, command)
    except ValueError as error:
      raise ValueError(f'{prefix}{error}') from None
  names(config)
  method_settings.check(config)
  unread.check(config, command)


def variants(config) -> Iterator[tuple[Any, str]]:
  """(config with its changes, 'proxy NAME: ') of its parts, proxies, worlds."""
  for section, word in VARIANTS.items():
    for label, changes in config.get(section, {}).items():
      prefix = f'{word} {label}: '
      if not FIELDS['setting'].fits(label):
        raise ValueError(f'{prefix}give it {name.words}')
      for path, _ in arguments.flat(changes):
        if path not in FIELDS:
          raise ValueError(f'{section}.{label}: {unknown(path, FIELDS)}')
      try:
        yield arguments.changed(config, changes), prefix
      except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f'{prefix}{error}') from None


def values(config, prefix: str = '', more: dict | None = None) -> None:
  """Every field is known, and its value of its kind and range."""
  own = unread.is_own(config)
  rules = {**FIELDS, **OF.get(config.experiment, {}), **(more or {})}
  if prefix.startswith('proxy'):  # which may be a model that saw nothing
    rules['training.epochs'] = whole(0)
  for path, value in arguments.flat(config):
    if path.split('.')[0] in (*VARIANTS, *SETTINGS):
      continue
    if path in rules:
      rules[path].check(path, value)
    elif not own or '.' not in path:  # a user's task has fields of its own
      raise ValueError(unknown(path, rules))


def unknown(path: str, known) -> str:
  """The sentence for a field that is none."""
  near = difflib.get_close_matches(path, known, 1)
  hint = f': did you mean {near[0]}?' if near else ''
  return f'{path} is no field of a config{hint}'


def names(config) -> None:
  """What a config names is there: methods, ensembles."""
  scored.named(config)
  asked = grammar.names(config.method)
  if twice := {n for n in asked if asked.count(n) > 1}:
    raise ValueError(
      f'method={config.method!r} names {", ".join(sorted(twice))} twice: give'
      ' every name once'
    )
  for each in (config.get('ensemble', 'naive'), *config.get('ensembles', ())):
    kind, count = ensembles_lib.named(each)
    if kind == 'checkpoints' and count > config.checkpoints:
      raise ValueError(
        f'{each!r} takes {count} of checkpoints={config.checkpoints}: give'
        f' --config.checkpoints={count} or more'
      )
    adapted = (
      config.model.get('kind') == 'checkpoint' and config.model.lora.rank
    )
    if kind == 'lora' and adapted:
      raise ValueError(
        f'{each!r}: the parameters of this model are adapters already: give'
        ' --config.model.lora.rank=0'
      )
    if kind == 'dropout' and not config.model.get('dropout'):
      if not unread.is_own(config):
        raise ValueError(
          f'{each!r} needs a model with dropout: give --config.model.dropout=0.1'
        )
  known = config.methods
  if 'plotted' in unread.changes(config):
    for each in config.plotted:
      if each not in known:
        raise ValueError(
          f'plotted names {each!r}: this config has {", ".join(sorted(known))}'
        )


def together(config, command: str) -> None:
  """Values that are right alone go together."""
  n, q = unread.rows_of(config), config.data.get('queries')
  for field, most, what in _limits(config, command, n, q):
    section, _, inner = field.rpartition('.')
    value = (config[section] if section else config)[inner]
    if most is not None and value > most:
      raise ValueError(f'{field}={value} is above {what}: give {most} or less')
  truth = config.get('truth')
  if n and truth and not 0 < round(truth.fraction * n) < n:
    raise ValueError(
      f'truth.fraction={truth.fraction} of {n} rows is'
      f' {round(truth.fraction * n)} rows: give one that leaves some out and'
      ' keeps some'
    )
  left = config.get('left_out', {})
  if left.get('rows') and left.get('repeats') == 0:
    raise ValueError('left_out.repeats=0: give a whole number from 1')
  if config.get('same_run', {}).get('subsets'):
    whole(2).check('same_run.subsets', config.same_run.subsets)
    whole(1).check('same_run.members', config.same_run.members)
  if 'further' in config and list(config.further.points) != sorted(
    set(config.further.points)
  ):
    raise ValueError(
      f'further.points={config.further.points}: give them in rising order'
    )
  if 'planted' in config.data:
    _of_swaps(config)
  if config.model.get('kind') == 'resnet9' and not unread.is_own(config):
    widths, groups = config.model.widths, config.model.groups
    if len(widths) != 4 or any(w % groups for w in widths):
      raise ValueError(
        f'model.widths={widths} of a resnet9: give four multiples of'
        f' model.groups={groups}'
      )


def _of_swaps(config) -> None:
  """Checks what `experiments.dda` asks of the held-out documents of its pairs."""
  data = config.data
  if data.queries < data.pairs:
    raise ValueError(
      f'data.queries={data.queries} of data.pairs={data.pairs}: give at least one of'
      ' each pair'
    )
  if data.queries // data.pairs > data.held_out:
    raise ValueError(
      f'data.queries={data.queries} of data.pairs={data.pairs} are'
      f' {data.queries // data.pairs} of each, above data.held_out={data.held_out}:'
      ' give a larger data.held_out'
    )
  if data.planted >= data.pairs:
    raise ValueError(
      f'data.planted={data.planted} of data.pairs={data.pairs}: leave some to ask'
    )
  if 1 not in config.betas:
    raise ValueError(
      f'betas={tuple(config.betas)}: give 1 too, of which claims are'
    )


def _limits(config, command, n, q) -> Iterator[tuple[str, int | None, str]]:
  """(field, the largest value that makes sense, what that is)."""
  changed = unread.changes(config)
  rows, asked = f'the {n} training rows', f'the {q} queries'
  for section in ('left_out', 'further'):
    field = f'{section}.rows'
    used = command == config.experiment or field in changed
    if used and 'rows' in config.get(section, {}):
      yield field, n, rows
  for field, most, what in (
    ('report.queries', q, asked),
    ('report.evidence', n, rows),
    ('brittleness.queries', q, asked),
    ('training.batch_size', n, rows),
  ):
    if field in changed:  # a config's own is what is shown at most
      yield field, most, what
  if 'brittleness' in config:
    yield 'brittleness.removed', n and n - 1, f'what {rows} allow'
  if 'same_run' in config and config.same_run.subsets:
    yield 'same_run.members', config.members, f'{config.members} members'
  if 'averaged' in config:
    count = config.checkpoints
    yield 'averaged', count, f'checkpoints={count}'
  if 'top' in config:
    yield 'top', n, rows
    yield 'chance_retrained', config.chance, f'chance={config.chance}'
  if 'further' in config:
    most, points = config.further.epochs, config.further.points
    if max(points) > most:
      raise ValueError(
        f'further.points={points} end after further.epochs={most}: give points'
        f' up to {most}'
      )
  if n and config.training.epochs:
    steps = config.training.epochs * -(-n // config.training.batch_size)
    yield 'checkpoints', steps, f'the {steps} steps of a run'
    if config.training.schedule == 'cyclic' and 'cycles' in config.training:
      yield 'training.cycles', steps, f'the {steps} steps of a run'
