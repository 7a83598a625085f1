"""What the README shows is what the code does."""

import pathlib
import re

import numpy as np
import tiny

from tda_jax.methods import method

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def test_examples_run(capsys, tmp_path, monkeypatch):
  """Every block of Python, in order, each after those before it."""
  first, *others = re.findall(r'```python\n(.*?)```', README, re.S)
  names = {}
  exec(compile(first, 'README.md', 'exec'), names)
  assert names['scores'].shape == (1000, 200)
  assert 'query 0 is a' in capsys.readouterr().out
  # The strongest supporters of a query have its label.
  strongest = names['scores'].argmax(0)
  agree = names['train']['y'][strongest] == names['queries']['y']
  assert np.mean(agree) > 0.9
  monkeypatch.chdir(tmp_path)
  names['recipe'] = names['recipe']._replace(epochs=10)
  for block in others:
    exec(compile(block, 'README.md', 'exec'), names)
    assert np.isfinite(names['scores']).all()
    assert names['scores'].shape[-2:] == (1000, 200)
  assert len(others) == 4
  assert names['sure'].p.shape == (200, 10)
  said = re.findall(r'(\d+)%', capsys.readouterr().out)
  assert int(said[0]) > 50 and int(said[1]) > 10 * int(said[2])


def test_the_method_of_the_guide_is_its_formula():
  guide = (ROOT / 'docs' / 'adding_a_method.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', guide, re.S)
  names, t = {}, tiny.classification()
  exec(compile(blocks[0], 'adding_a_method.md', 'exec'), names)
  exec('oracle = {' + blocks[-1] + '}["one_step"]', names)
  found = method.attribute(
    names['one_step'](), t.problem, t.params, t.train, t.queries
  )
  m = tiny.gradients(t.problem.measure, t, t.queries)
  g = tiny.gradients(t.problem.loss, t, t.train)
  np.testing.assert_allclose(found, names['oracle'](t, m, g).T, atol=1e-4)


def test_named_files_exist():
  linked = re.findall(r'\]\(([\w./]+)\)', README)
  configs = [f'configs/{c}' for c in re.findall(r'`(astra/\w+\.py)`', README)]
  assert len(linked) >= 3 and len(configs) >= 6
  for name in linked + configs:
    assert (ROOT / name).exists(), name


def test_named_commands_exist():
  makefile = (ROOT / 'Makefile').read_text()
  text = README + (ROOT / 'AGENTS.md').read_text()
  targets = set(re.findall(r'(?:^|`)make ([\w-]+)', text, re.M))
  assert targets >= {'quickstart', 'test', 'results'}
  for target in targets:
    assert f'\n{target}:' in makefile, target
  for module in set(re.findall(r'\bexperiments\.\w+', text)):
    path = ROOT / module.replace('.', '/')
    found = path.with_suffix('.py'), path / '__main__.py'
    assert any(file.exists() for file in found), module
