"""The names of tda_jax: all there, those that moved say where, quick to import."""

import subprocess
import sys

import pytest

import tda_jax as tda


def test_every_name_of_the_face_is_there():
  assert len(tda.__all__) == len({*tda.__all__})
  for name in tda.__all__:
    assert getattr(tda, name) is not None
  assert {*tda.__all__, *tda.PACKAGES} == {*dir(tda)}
  assert tda.methods.registry.KINDS


@pytest.mark.parametrize('name', tda.MOVED)
def test_a_name_that_moved_says_where(name):
  words = f'tda_jax.{name} is tda_jax.{tda.MOVED[name]} now'
  with pytest.warns(DeprecationWarning, match=words):
    there = getattr(tda, name)
  here = tda
  for part in tda.MOVED[name].split('.'):
    here = getattr(here, part)
  assert there is here and name not in tda.__all__


def test_a_name_that_is_none_is_an_attribute_error():
  for thing, words in (
    (tda, "tda_jax has no 'nope'$"),
    (tda, "no 'atribute': did you mean 'attribute'"),
    (tda.evaluation, "'tda_jax.evaluation' has no attribute 'nope'"),
  ):
    with pytest.raises(AttributeError, match=words):
      getattr(thing, words.split("'")[1 if thing is tda else 3])


@pytest.mark.slow
def test_it_is_imported_about_as_quickly_as_jax_and_optax():
  code = (
    'import time\nstart = time.perf_counter()\nimport jax, optax\n'
    'middle = time.perf_counter()\nimport tda_jax\n'
    'print((time.perf_counter() - start) / (middle - start))'
  )
  ratios = [
    float(subprocess.check_output([sys.executable, '-c', code]))
    for _ in range(5)
  ]
  # What disturbs a run only adds to it.
  assert min(ratios) <= 1.3, ratios
