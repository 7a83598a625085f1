"""Changes of a config that nothing would read are refused.

A field counts by what else the config says: `training.cycles` only where the
schedule is cyclic, `data.path` only where there are files. Which fields were
changed is known of configs whose `get_config` is an `arguments.setting`; what a
config file has and does not need stays.
"""

from collections.abc import Iterator

from experiments.shared import (
  arguments,
  grammar,
  networks,
  scored,
  sources,
  tasks,
)

MODELS = {  # kind -> the fields that it reads
  'mlp': ('widths', 'activation', 'init', 'dropout'),
  'lenet': ('dropout',),
  'transformer': ('width', 'heads', 'blocks', 'hidden', 'dropout'),
  'decoder': ('width', 'heads', 'blocks', 'hidden', 'tied'),
  'checkpoint': ('path', 'lora', 'remat', 'leave_out'),
  'resnet9': ('widths', 'groups'),
  'cnn2': ('init',),
  'cnn3': ('init',),
  'vit': ('path', 'heads', 'lora'),
  'random_vit': ('sizes', 'lora'),
}
OPTIONAL = (
  'activation',
  'dropout',
  'remat',
  'leave_out',
)  # have defaults where they are absent
DRAWN = ('seed', 'queries', 'train', 'per_class', 'classes', 'held_out')
WORLDS = ('world', 'worlds')
DATA = {  # task -> the fields of config.data that it reads
  'digits': (*DRAWN, *WORLDS, 'name', 'label_noise'),
  'images': (
    *(*DRAWN, *WORLDS, 'name', 'label_noise', 'path', 'pool', 'symmetric'),
  ),
  'reviews': (
    *('seed', 'train', 'queries', 'name', 'label_noise', 'length'),
    'vocabulary',
  ),
  'documents': (*('seed', 'train', 'queries', 'name', 'length', 'vocabulary'),),
  'chunks': (*('seed', 'train', 'queries', 'name', 'test', 'length'),),
  'facts': (
    *('seed', 'train', 'queries', 'name', 'length', 'vocabulary'),
    'paraphrases',
  ),
  'swaps': (
    *('seed', 'train', 'queries', 'held_out', 'name', 'length', 'pairs'),
    *('planted', 'of_pair', 'of_other', 'of_wrong', 'probability', 'partial'),
    *('style', 'sentences', 'knowledge', 'path', 'names', 'words'),
  ),
  'claims': (
    *('seed', 'train', 'queries', 'name', 'length', 'vocabulary', 'path'),
    'claims',
  ),
  'table': (
    *('seed', 'train', 'queries', 'name', 'label_noise', 'path', 'target'),
    *('drop', 'classification', 'one_hot'),
  ),
}
NAMES = {
  'digits': ('digits', 'digits3'),
  'reviews': ('reviews',),
  'facts': ('facts',),
  'swaps': ('swaps', 'xsum'),
  'claims': ('claims', 'vitaminc', 'ftrace'),
}
TEXTS = ('documents', 'chunks', 'facts', 'swaps', 'claims')  # language models'
TRAINED = (
  'documents',
  'chunks',
  'facts',
  'swaps',
)  # those that a checkpoint may have
LANGUAGE = ('decoder', 'checkpoint')
FILE = ('target', 'drop', 'classification', 'one_hot')  # of a user's table
OTHERS = {  # fields of a config that another experiment reads
  'efficient_ensembles': (
    *('claims', 'left_out', 'same_run', 'choose'),
    *('paper_damping', 'paper_repeats'),
    *('damping_grid', 'sets'),
  ),
  'own': (
    *('claims', 'left_out', 'same_run', 'choose'),
    *('paper_damping', 'paper_repeats'),
    *('damping_grid', 'sets'),
  ),
}
ENDPOINT = ('model', 'calls', 'at_once')  # of config.judge
SCORED = (
  'astra',
  'attribute',
  'evaluate',
  'own',
  'train',
)  # read config.ensemble


def check(config, command: str) -> None:
  """Raises ValueError for a change that is not read, or a field that is absent."""
  if not is_own(config):
    needed(config)
  changed = changes(config)
  if not changed:
    return
  for field, reason in unread(config, command):
    for path, value in changed.items():
      if path == field or path.startswith(f'{field}.'):
        raise ValueError(
          f'{path}={value!r} would not be read: {reason}; leave it out'
        )


def changes(config) -> dict:
  """path -> value of the fields that differ from what `get_config` gave."""
  shipped = arguments.shipped(config)
  if shipped is None:
    return {}
  return {
    path: value
    for path, value in arguments.flat(config)
    if path not in shipped or shipped[path] != value
  }


def is_own(config) -> bool:
  """Whether the task is a user's, which reads what it likes."""
  function = grammar.term(config.task).argument
  return tasks.is_own(config) or function not in DATA


def rows_of(config) -> int | None:
  """Training rows, where the config says how many; None: a user's task."""
  data = config.data
  if is_own(config):
    return None
  if data.get('per_class'):
    return data.per_class * data.classes
  return data.get('train')


def needed(config) -> None:
  """Raises ValueError where a choice needs fields that the config has not."""
  model, kind = config.model, config.model.kind
  absent = [f for f in MODELS[kind] if f not in model and f not in OPTIONAL]
  if absent:
    raise ValueError(
      f'model.kind={kind!r} needs {" and ".join(f"model.{f}" for f in absent)},'
      f' which this config does not have: use {_kinds(model)}'
    )
  task, named = grammar.term(config.task).argument, config.data.name
  if named not in NAMES.get(task, (named,)):
    raise ValueError(
      f'data.name={named!r} of the task {task}: give {NAMES[task][0]!r}, or'
      " another task, as --config.task=experiments.shared.tasks:table for a table's"
      ' file'
    )
  if absent := [f for f in _required(task, kind) if f not in config.data]:
    raise ValueError(
      f'task={config.task!r} needs {", ".join(f"data.{f}" for f in absent)},'
      ' which this config does not have: use a config of that task'
    )
  if (kind == 'transformer') != (task == 'reviews'):
    raise ValueError(
      f'model.kind={kind!r} of the task {task}: a transformer reads texts, which'
      ' the task reviews has, and no other model does'
    )
  _of_language(kind, task)
  for section, training in _trainings(config):
    if training.schedule == 'cyclic' and 'cycles' not in training:
      raise ValueError(
        f"{section}.schedule='cyclic' needs {section}.cycles, which this config"
        ' does not have: use constant, linear or triangular'
      )
  flat = config.model.kind not in networks.CNNS and task == 'digits'
  for section, training in _trainings(config):
    if training.augment and (flat or task in ('reviews', 'table', *TEXTS)):
      raise ValueError(
        f'{section}.augment=True crops and mirrors images, and this model is'
        f' given none (the task {task} with model.kind={kind!r}): leave it out'
      )


def _of_language(kind, task):
  """A language model has a task of texts, and no other model has."""
  if kind == 'checkpoint' and task not in TRAINED:
    raise ValueError(
      f'model.kind={kind!r} of the task {task}: a checkpoint is fine-tuned on the'
      f' tasks {", ".join(TRAINED)}'
    )
  if task == 'chunks' and kind != 'checkpoint':
    raise ValueError(
      f'model.kind={kind!r} of the task chunks: its pieces are of the tokens of a'
      " checkpoint's tokenizer: use a config of one, as gpt2_wikitext.py"
    )
  if (kind in LANGUAGE) != (task in TEXTS):
    raise ValueError(
      f'model.kind={kind!r} of the task {task}: a decoder or a checkpoint models'
      f' the language of the tasks {" and ".join(TEXTS)}, and no other model does'
    )


def unread(config, command: str) -> Iterator[tuple[str, str]]:
  """(field or section, why it is not read)."""
  for field in ('experiment', 'ablation'):
    yield field, 'the config file sets it, by its arguments'
  for field in OTHERS.get(command, ()):
    yield field, f'experiments.{command} has no use for it'
  if not is_own(config):
    yield from _of_data(config)
    yield from _of_model(config)
  for section, training in _trainings(config):
    if training.schedule != 'cyclic':
      yield f'{section}.cycles', f'{section}.schedule={training.schedule!r}'
    if training.schedule != 'triangular':
      for field in ('warmup', 'last'):
        yield f'{section}.{field}', f'{section}.schedule={training.schedule!r}'
    if training.get('optimizer', 'sgd') != 'sgd':
      optimizer = training.optimizer
      yield f'{section}.momentum', f'{section}.optimizer={optimizer!r}'
    else:
      for field in ('eps_root', 'betas'):
        yield f'{section}.{field}', f"{section}.optimizer='sgd'"
  yield from _of_methods(config)
  yield from _of_tracing(config)
  yield from _of_stages(config)
  yield from _of_variants(config, command)
  ensembles = (config.get('ensemble', ''), *config.get('ensembles', ()))
  if not any(grammar.term(e).name == 'lora' for e in ensembles if e):
    yield 'lora', 'no ensemble of this config has adapters'
  if command not in SCORED:
    yield 'ensemble', f'experiments.{command} has its own; attribute reads it'


def _of_data(config):
  task, data = grammar.term(config.task).argument, config.data
  for field in data:
    if field not in DATA[task]:
      yield f'data.{field}', f'the task {task} has no use for it'
  if task == 'images' and data.name not in sources.IMAGE_FILES:
    yield 'data.path', f'{data.name} comes with a package'
  if task == 'table':
    if data.name not in sources.FILES:
      yield 'data.path', f'data.name={data.name!r} says where the data are'
    for field in FILE if data.name in sources.TABLES else ():
      yield f'data.{field}', f'{data.name} is no file of yours'
  if config.model.kind == 'checkpoint':
    yield 'data.vocabulary', "a checkpoint's tokenizer has its own"
  if data.get('per_class'):
    yield 'data.train', 'data.per_class says how many rows there are'
  mixed = data.get('worlds', {}).get('mixed', {})
  if mixed.get('foreign') in ('photographs', 'mnist5k'):
    yield 'data.worlds.mixed.path', f'{mixed.foreign} come with a package'
  if mixed.get('foreign') == 'photographs':
    yield 'data.worlds.mixed.only', 'photographs have no classes'


def _of_model(config):
  kind = config.model.kind
  for field in config.model:
    if field != 'kind' and field not in MODELS[kind]:
      if not any(field in MODELS[k] for k in _kinds_of(config)):
        yield f'model.{field}', f'model.kind={kind!r} has no such thing'
  if kind == 'checkpoint' and config.model.lora.rank:
    yield 'model.leave_out', 'adapters are chosen by model.lora.targets'
  elif kind == 'checkpoint':
    for field in ('alpha', 'targets'):
      yield f'model.lora.{field}', 'model.lora.rank=0 trains the whole model'


def _of_methods(config):
  wanted = scored.named(config)
  for name in config.methods:
    if name not in wanted:
      yield f'methods.{name}', f'method={config.method!r} leaves it out'
  if config.method:
    yield 'sets', f'method={config.method!r} leaves predictions of sets out'
  if all(name in config.methods for name in wanted):
    yield (
      'damping',
      'it is of a kind that `method` names and the config has not',
    )
  referred = {n for s in wanted.values() for n in scored.references(s)}
  for name in config.get('choose', {}):
    if name not in referred:
      yield f'choose.{name}', f"no method's damping is 'chosen:{name}'"
  if referred <= {'mean_square'}:
    for field in ('damping_grid', 'truth.validation'):
      yield field, "no method's damping is chosen by validation"


def _of_tracing(config):
  judge, tracing = config.get('judge', {}), config.get('tracing', {})
  if kind := judge.get('kind'):
    for field in judge:
      if field != 'kind' and (field in ENDPOINT) != (kind == 'endpoint'):
        if field not in ('blocks', 'length'):  # of the encoder, which is read
          yield f'judge.{field}', f'judge.kind={kind!r} has no use for it'
  if tracing.get('encoder') == 'words':
    yield 'tracing.path', "tracing.encoder='words' needs no file"


def _of_stages(config):
  left = config.get('left_out', {})
  if left.get('rows') == 0 and 'repeats' in left:
    yield 'left_out.repeats', 'left_out.rows=0'
  if 'ways' in left and 'loo_continued' not in left.ways:
    yield 'left_out.continued', "left_out.ways has no 'loo_continued'"
  if 'ways' in left and not left.ways:
    yield 'left_out.members_at_once', 'left_out.ways=()'
  if config.get('same_run', {}).get('subsets') == 0:
    for field in ('dropped', 'members'):
      yield f'same_run.{field}', 'same_run.subsets=0'


def _of_variants(config, command):
  """What every part, or every world, has of its own."""
  for section in ('parts', 'worlds', 'proxies'):
    every = [dict(arguments.flat(c)) for c in config.get(section, {}).values()]
    if every and command == config.experiment:
      for field in set.intersection(*map(set, every)):
        yield field, f'every one of config.{section} has its own {field}'
    elif every and command != 'evaluate':
      yield section, f'experiments.{command} scores the config itself'
  if config.experiment != 'limited_access':
    return
  for field, value in (
    ('training.distillation.alpha', config.training.distillation.alpha),
    ('data.held_out', config.data.held_out),
  ):
    if value:
      yield field, f'it is of a proxy, as --config.proxies.NAME.{field}'


def _kinds_of(config):
  """The model's kind, and those of the config's parts and proxies."""
  kinds = [config.model.kind]
  for section in ('parts', 'proxies'):
    for changes in config.get(section, {}).values():
      kinds.append(changes.get('model', {}).get('kind', config.model.kind))
  return kinds


def _trainings(config):
  """('training', its settings), and those of further training and adapters."""
  yield 'training', config.training
  if 'further' in config:
    yield 'further', config.further
  if 'lora' in config:
    yield 'lora.training', config.lora.training


def _required(task, kind):
  if task == 'swaps':
    return ('length', 'pairs')
  if kind == 'checkpoint':
    return ('length', 'test') if task == 'chunks' else ('length',)
  if task in ('reviews', *TEXTS):
    return ('length', 'vocabulary')
  return FILE if task == 'table' else ()


def _kinds(model):
  can = [
    kind
    for kind, fields in MODELS.items()
    if all(f in model or f in OPTIONAL for f in fields)
  ]
  return f'one of {", ".join(can)}'
