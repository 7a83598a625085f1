"""What a config may say: every field's range, and no change without effect."""

import importlib
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from experiments import attribute
from experiments.astra import experiment as astra
from experiments.shared import (
  arguments,
  method_settings,
  networks,
  rules,
  settings,
  tasks,
  unread,
)

ROOT = pathlib.Path(__file__).parents[2]
FILES = [
  file
  for file in sorted((ROOT / 'configs').glob('*/*.py'))
  if '\ndef get_config' in file.read_text()
]
DIGITS = 'astra/digits'


def get(name, arg='smoke'):
  module = importlib.import_module(f'configs.{name.replace("/", ".")}')
  return module.get_config(arg)


def changed(name, **changes):
  """The config with 'section__field' changed, as flags change it: in place."""
  config = get(name)
  config.update_from_flattened_dict(
    {path.replace('__', '.'): value for path, value in changes.items()}
  )
  return config


def sentence(name, command=None, **changes):
  config = changed(name, **changes)
  with pytest.raises(ValueError) as error:
    settings.check(config, command or config.experiment)
  text = str(error.value)
  assert '\n' not in text
  return text


def test_every_config_of_the_package_passes():
  for file in FILES:
    text, name = file.read_text(), f'{file.parent.name}/{file.stem}'
    args = [None, 'smoke']
    args += [
      a for a in ('quick', 'networks', 'anchors') if f'{a}=False' in text
    ]
    if "ablation=''" in text:
      args += ['ablation=batch', 'ablation=preconditioner,smoke']
    for arg in args:
      config = get(name, arg)
      for command in (config.experiment, 'attribute'):
        settings.check(config, command)
      assert unread.changes(config) == {}


OUT_OF_RANGE = {
  'members': (0, -1),
  'checkpoints': (-1, 21, 999999),
  'batch_size': (0, -5),
  'seed': (-1, 2**40),
  'damping': (0.0, -1.0, math.nan),
  'damping_grid': ((), (0.0,), (-1.0,), (math.nan,), ("float('nan')",)),
  'setting': ('', '.', '..', '../../esc', 'a/b', '/abs', '.hidden', 'a b'),
  'ensemble': ('foo', 'dropout:0', 'dropout:2', 'checkpoints:99', 'lora:0', ''),
  'method': (',', 'grad_dot,', 'grad_dot,grad_dot', 'nope', 'Grad_Dot'),
  'data__name': ('nope', ''),
  'data__train': (0, 1, -5),
  'data__queries': (0, -1),
  'data__seed': (-1,),
  'data__label_noise': (1.5, -0.1, math.nan),
  'training__learning_rate': (0.0, -1.0, math.nan, math.inf),
  'training__momentum': (1.0, 1.5, -1.0, math.nan),
  'training__weight_decay': (-1.0, math.nan),
  'training__batch_size': (0, -1, 10**9),
  'training__epochs': (0, -1),
  'training__schedule': ('cosine', ''),
  'training__cycles': (0,),
  'training__augment': (True,),
  'lora__training__epochs': (0,),
  'model__kind': ('nope', 'transformer', 'vit', ''),
  'model__widths': ((0,), (-3,), ('a',), (1.5,)),
  'model__activation': ('sin',),
  'model__init': ('xx',),
  'model__dropout': (1.0, -0.1, 1.5, math.nan),
  'truth__subsets': (0, 1, -1),
  'truth__validation': (0,),
  'truth__fraction': (0.0, 1.0, 2.0, math.nan, 0.001, 0.999),
  'truth__repeats': (0, 1, -1),
  'truth__members_at_once': (0, -1),
  'left_out__rows': (-1, 129, 999),
  'left_out__repeats': (0,),
  'same_run__subsets': (-1, 1),
  'same_run__dropped': (0.0, 1.0),
  'report__queries': (0, -1, 9999),
  'report__evidence': (0, -1, 9999),
}  # fmt: skip


@pytest.mark.parametrize('field', OUT_OF_RANGE)
def test_values_out_of_range_are_refused_by_name(field):
  for value in OUT_OF_RANGE[field]:
    text = sentence(DIGITS, **{field: value})
    path, last = field.replace('__', '.'), field.rpartition('__')[2]
    named = path in text or (field == 'ensemble' and repr(value) in text)
    assert named or (last == 'method' and 'unknown method' in text), text


def test_every_number_of_the_table_refuses_nan_text_and_a_truth_value():
  for path, rule in settings.FIELDS.items():
    wrong = [math.nan, True, 'x'] if 'number' in rule.words else [3.5, object()]
    for value in wrong:
      if 'tuple' not in rule.words:
        assert not rule.fits(value), (path, value)
    with pytest.raises(ValueError, match='give '):
      rule.check(path, object())


@pytest.mark.parametrize('name', ['astra/digits', 'quanda/digits'])
def test_a_field_that_is_none_is_told_with_its_neighbour(name):
  config = get(name)
  config.data.quries = 3
  with pytest.raises(ValueError, match='did you mean data.queries'):
    settings.check(config, config.experiment)


UNREAD = [
  (DIGITS, {'data__path': '/nonexistent'}, 'data.path'),
  (DIGITS, {'data__classification': True}, 'data.classification'),
  (DIGITS, {'data__length': 32}, 'data.length'),
  (DIGITS, {'training__cycles': 3}, "training.schedule='linear'"),
  (DIGITS, {'lora__rank': 2}, 'adapters'),
  (DIGITS, {'model__groups': 8}, 'model.groups'),
  (DIGITS, {'model__heads': 2}, 'model.heads'),
  (DIGITS, {'method': 'grad_dot', 'damping': 0.5}, 'damping=0.5'),
  (DIGITS, {'method': 'grad_dot', 'damping_grid': (0.5,)}, 'damping_grid'),
  (DIGITS, {'method': 'ekfac', 'methods__exact__memory_limit': 9e9},
   "method='ekfac' leaves it out"),
  (DIGITS, {'left_out__rows': 0, 'left_out__repeats': 5}, 'left_out.rows=0'),
  (DIGITS, {'same_run__dropped': 0.2}, 'same_run.subsets=0'),
  (DIGITS, {'experiment': 'quanda'}, 'would not be read'),
  (DIGITS, {'ablation': 'steps'}, 'ablation'),
  ('astra/concrete', {'data__path': 'x.csv'}, 'data.path'),
  ('astra/concrete', {'data__drop': 'a'}, 'concrete is no file of yours'),
  ('astra/mnist5k', {'data__path': '/x'}, 'mnist5k comes with a package'),
  ('bayesian_tda/digits3', {'data__pool': 2}, 'data.pool'),
  ('bayesian_tda/digits3', {'training__epochs': 7}, 'config.parts'),
  ('bayesian_tda/digits3', {'training__momentum': 0.5}, "'adam'"),
  ('bayesian_tda/digits3', {'left_out__ways': ('loo',),
                            'left_out__continued': 0.3}, 'continued'),
  ('quanda/digits', {'model__groups': 8}, 'model.groups'),
  ('quanda/digits', {'data__world': 'grouped'}, 'config.worlds'),
  ('quanda/digits', {'data__worlds__mixed__only': 3}, 'photographs'),
  ('limited_access/mnist5k', {'training__distillation__alpha': 0.5}, 'proxy'),
  ('limited_access/mnist5k', {'data__held_out': 5}, 'of a proxy'),
  ('efficient_ensembles/digits', {'ensemble': 'halves'}, 'attribute reads it'),
  ('efficient_ensembles/digits', {'left_out__rows': 3}, 'left_out.rows=3'),
]  # fmt: skip


@pytest.mark.parametrize('name, changes, word', UNREAD)
def test_a_change_that_nothing_reads_is_refused(name, changes, word):
  assert word in sentence(name, **changes)


def test_the_same_change_where_it_is_read_passes():
  for name, changes in (
    (DIGITS, {'training__schedule': 'cyclic', 'training__cycles': 3}),
    (DIGITS, {'ensemble': 'lora:2', 'lora__rank': 2}),
    (DIGITS, {'ensemble': 'dropout:2', 'model__dropout': 0.1}),
    (DIGITS, {'method': 'lissa', 'damping': 0.5}),
    (DIGITS, {'method': 'exact', 'damping_grid': (0.5, 0.05)}),
    (DIGITS, {'method': 'exact', 'methods__exact__damping': '0.5'}),
    (DIGITS, {'same_run__subsets': 4, 'same_run__dropped': 0.2}),
    (DIGITS, {'model__widths': ()}),
    (DIGITS, {'checkpoints': 20, 'methods__source__segments': 5}),
    (DIGITS, {'left_out__rows': 128}),
    (DIGITS, {'data__queries': 1}),
    ('bayesian_tda/digits3', {'parts__cnn2_4__training__epochs': 7}),
    ('limited_access/mnist5k', {'proxies__s1_width__training__epochs': 2}),
    ('quanda/digits', {'data__worlds__mixed__share': 0.2}),
  ):  # fmt: skip
    config = changed(name, **changes)
    settings.check(config, config.experiment)


METHODS = [
  ('exact', {'damping': -1.0}, 'methods.exact.damping=-1.0'),
  ('exact', {'damping': 0.0}, 'leaves a singular curvature'),
  ('exact', {'damping': math.nan}, 'methods.exact.damping=nan'),
  ('exact', {'damping': 'abc'}, "methods.exact.damping='abc'"),
  ('exact', {'damping': 'chosen:nope'}, "config.choose has no 'nope'"),
  ('exact', {'damping': 'chosen:exact*-1'}, 'above 0 after the *'),
  ('exact', {'memory_limit': 0.0}, 'memory_limit'),
  ('exact', {'nope': 1}, 'exact has no such setting'),
  ('exact', {'kind': 'exakt'}, "did you mean 'exact'"),
  ('trak', {'projection_dim': 0}, 'projection_dim=0'),
  ('trak', {'projection_dim': 100000}, 'above the 128 training rows'),
  ('trak', {'ridge': -1.0}, 'ridge=-1.0'),
  ('ekfac', {'labels': 'foo'}, "methods.ekfac.labels='foo'"),
  ('ekfac', {'batch_size': 0}, 'methods.ekfac.batch_size=0'),
  ('cg', {'tolerance': -1.0}, 'methods.cg.tolerance'),
  ('cg', {'tolerance': math.nan}, 'methods.cg.tolerance'),
  ('cg', {'max_steps': 0}, 'methods.cg.max_steps=0'),
  ('cg', {'curvature': 'fisher'}, 'methods.cg.curvature'),
  ('cg', {'members': 0}, 'methods.cg.members=0'),
  ('cg', {'precondition': {'kind': 'nope'}}, 'methods.cg.precondition.kind'),
  ('astra', {'steps': 0}, 'methods.astra.steps=0'),
  ('astra', {'reports': 3}, 'methods.astra: reports=3 does not divide'),
  ('source', {'segments': 2}, 'checkpoints=3 cannot be cut into 2'),
]


@pytest.mark.parametrize('name, fields, message', METHODS)
def test_arguments_of_methods_are_checked_before_work(name, fields, message):
  config = get(DIGITS)
  with config.unlocked(), config.ignore_type():
    config.methods[name].update(fields)
  with pytest.raises(ValueError) as error:
    settings.check(config, 'attribute')
  assert message in str(error.value)


def test_an_argument_without_a_rule_is_its_functions(monkeypatch):
  """As one of a method that a user adds."""
  monkeypatch.delitem(method_settings.ARGUMENTS, 'memory_limit')
  settings.check(get(DIGITS), 'attribute')


def test_widths_of_a_resnet_fit_its_groups():
  for widths in ((16, 16), (32, 32, 32, 48)):
    text = sentence(DIGITS, model__kind='resnet9', model__widths=widths)
    assert 'give four multiples of model.groups=32' in text


def test_a_config_of_another_experiment_is_refused():
  with pytest.raises(ValueError, match='run experiments.quanda'):
    settings.check(get('quanda/digits'), 'astra')
  settings.check(get('quanda/digits'), 'train')


def test_variants_are_checked_with_their_changes():
  config = get('limited_access/mnist5k')
  config.proxies.s1_width.training.learning_rate = -1.0
  with pytest.raises(ValueError, match='proxy s1_width: training.learning'):
    settings.check(config, 'limited_access')
  config = get('quanda/digits')
  config.worlds.mixed.data.trian = 3
  with pytest.raises(ValueError, match='worlds.mixed: data.trian is no field'):
    settings.check(config, 'quanda')


def test_a_task_of_ones_own_has_fields_of_its_own():
  config = get(DIGITS)
  config.task = 'mine:task'
  config.data.name, config.data.path, config.data.colour = 'mine', '/x', 3
  config.model.kind = 'mlp'
  settings.check(config, 'attribute')


class Reading(config_dict.ConfigDict):
  """A config that knows which of its fields were read."""

  def __getitem__(self, key):
    self.__dict__.setdefault('seen', set()).add(key)
    return super().__getitem__(key)


@pytest.mark.parametrize('name', [DIGITS, 'final_model_only/diabetes'])
def test_the_table_of_data_is_what_the_task_reads(name):
  config = get(name)
  read = Reading(config.data.to_dict())
  config.data = read
  tasks.load(config)
  task = config.task.partition(':')[2]
  seen = read.__dict__['seen'] & set(read.keys())
  assert seen <= {
    *unread.DATA[task],
    'vocabulary',
  }  # which all classifiers take
  declared = {*unread.DATA[task]} & set(read.keys())
  assert declared - seen <= {*unread.FILE, 'path', 'name'}  # of a file


@pytest.mark.parametrize(
  'kind', ['mlp', 'lenet', 'transformer', 'resnet9', 'cnn2']
)
def test_the_table_of_models_is_what_the_network_reads(kind):
  config = get(DIGITS)
  read = Reading({**config.model.to_dict(), 'kind': kind, 'groups': 4})
  read.widths = (8, 8, 8, 8)
  config.model = read
  read.__dict__['seen'] = set()
  shape = (6,) if kind == 'transformer' else (28, 28, 1)
  networks.network(read, 3, shape, config.data.get('vocabulary'))
  seen = read.__dict__['seen'] - {'kind', 'dropout'}  # asked of all
  assert seen == {*unread.MODELS[kind]} - {'dropout'}


def test_a_network_that_does_not_take_the_inputs_is_a_sentence():
  config = changed(DIGITS, model__kind='lenet')
  with pytest.raises(
    ValueError, match=r"'lenet' cannot take inputs of shape \[8"
  ):
    tasks.load(config)


@pytest.mark.parametrize(
  'task', ['os:getcwd', 'os:listdir', '', 'nope', ':', 'os:']
)
def test_a_task_that_is_none_is_a_sentence(task):
  config = get(DIGITS)
  config.task = task
  with pytest.raises(ValueError, match='task='):
    tasks.load(config)


def test_label_noise_of_a_number_is_refused():
  config = get('final_model_only/diabetes')
  config.data.label_noise = 0.1
  with pytest.raises(ValueError, match='the target of diabetes is a number'):
    tasks.load(config)


def test_rules_tell_their_ends():
  words = lambda **ends: rules.number(**ends).words
  assert words(above=0) == 'a number above 0'
  assert words(least=0, below=1) == 'a number from 0 to below 1'
  assert words(least=0, most=1) == 'a number from 0 to 1'
  assert words(above=0, below=1) == 'a number above 0 and below 1'
  assert rules.whole(1).fits(1) and not rules.whole(1).fits(1.0)
  pair = rules.several(rules.whole(1), 2, 2)
  assert pair.fits((1, 2)) and not pair.fits((1,)) and not pair.fits((1, 2, 3))
  assert rules.number().fits(np.float64(3)) and not rules.number().fits(jnp.inf)


def test_a_copy_of_a_config_does_not_know_what_was_shipped():
  config = get(DIGITS)
  assert arguments.shipped(config)['members'] == config.members
  assert arguments.shipped(arguments.changed(config, {'members': 3})) is None
  assert 'shipped' not in str(config.to_dict())


def test_adapters_that_fit_nothing_are_refused_before_training(tmp_path):
  for field, value, message in (
    ('lora__rank', 999, 'rank=999 for'),
    ('lora__targets', ('nope/*',), "targets='nope/"),
  ):
    config = changed(DIGITS, **{'ensemble': 'lora:2', field: value})
    with pytest.raises(ValueError, match=message):
      attribute.main(config, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_a_claim_that_is_none_is_refused_before_anything_runs(tmp_path):
  config = changed(DIGITS, claims=('nope',))
  with pytest.raises(ValueError, match=r"claims\[0\]='nope'|claims=.*nope"):
    astra.main(config, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_a_method_that_follows_a_run_is_refused_where_members_are_checkpoints():
  text = sentence(DIGITS, method='tracin', ensemble='checkpoints:2')
  assert 'those of ensemble=' in text and '--config.ensemble=naive' in text
