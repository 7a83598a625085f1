"""What the README shows is what the code does."""

import pathlib
import re

import jax
import numpy as np
import tiny
from tracing import stub

from tda_jax.methods import method

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
BEFORE, LANGUAGE = README.split('## Language models')
LANGUAGE, TRACING = LANGUAGE.split('## What supports a fact')


def test_examples_run(capsys, tmp_path, monkeypatch):
  """Every block of Python, in order, each after those before it."""
  first, *others = re.findall(r'```python\n(.*?)```', BEFORE, re.S)
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


def test_the_example_of_a_language_model_runs(monkeypatch, capsys):
  """With a small model in place of the checkpoint."""
  from tda_jax.data import tokenizer
  from tda_jax.models import decoder, read_decoder, tokens

  capitals = {'France': 'Paris', 'England': 'London', 'Spain': 'Madrid'}
  texts = [f'The capital of {a} is {b}.' for a, b in capitals.items()]
  sizes = decoder.Sizes(300, 8, 1, 2, 2, 12, 128)
  params = decoder.decoder(sizes)[0](jax.random.key(0))
  made = tokenizer.trained(texts, 300)
  monkeypatch.setattr(read_decoder, 'read', lambda path: (params, sizes))
  monkeypatch.setattr(tokens, 'read', lambda path: made)
  (block,) = re.findall(r'```python\n(.*?)```', LANGUAGE, re.S)
  names = {'texts': texts}
  exec(compile(block, 'README.md', 'exec'), names)
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 3 and 'most by' in said[0]
  sums = names['by_token'].sum((1, 2))
  np.testing.assert_allclose(sums, names['scores'][0], rtol=1e-3)


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


def test_the_example_of_tracing_runs(tmp_path, monkeypatch, capsys):
  """With counts of words in place of the encoder, and a stub of the endpoint."""
  from tda_jax.models import encoder

  sentences = ['Niger and Chad meet.', 'Chad is dry.', 'Lima is in Peru.']
  words = sorted({word for text in sentences for word in text.split()})
  count = lambda texts: np.array(
    [[1.0 + text.split().count(word) for word in words] for text in texts]
  )
  monkeypatch.setattr(encoder, 'embedder', lambda folder: count)
  monkeypatch.chdir(tmp_path)
  (block,) = re.findall(r'```python\n(.*?)```', TRACING, re.S)
  with stub.served(lambda n, body: stub.answer(body)) as server:
    monkeypatch.setenv('OPENAI_BASE_URL', server.url)
    exec(compile(block, 'README.md', 'exec'), {'sentences': sentences})
  said = capsys.readouterr().out
  assert 'Niger and Chad meet.' in said and 'Lima' not in said
