"""A GPT-2 with random weights: our scores of texts beside those of other packages.

  python -m scripts.peers_decoder

Writes results/peers_decoder.json. Needs the extra `peers_decoder` with a CPU build of
torch: kronfluence, dattri-llm and bergson, none of which needs a GPU for this. The
model is a fixture of the tests with queries, keys and values as layers of their own
(`scripts.torch_gpt2`). Rows are random tokens; blocks are those of all matrices but the
embeddings, with their biases; labels are those of the data; dampings are 0.1 · the mean
eigenvalue of each layer. bergson leaves the head out, and so do we where we are compared
with it. Seconds: ours after compilation, theirs after a warm-up.

The first position attends to itself alone, so its query has no gradient. bergson,
kronfluence and we average its inputs with the others (`tda_jax.layers.positions`);
dattri-llm leaves it out, so that its EKFAC differs in the layers of queries.
"""

import importlib
import time
from importlib import metadata

import jax

import tda_jax as tda
from scripts import benchmark, torch_gpt2, torch_models
from tda_jax.models import decoder, read_decoder
from tda_jax.storage import record

RESULTS = benchmark.RESULTS.with_name('peers_decoder.json')
LAYERS = ('query', 'key', 'value', 'out', 'up', 'down')
WITHOUT_HEAD = tuple(f'block_*/{name}/*' for name in LAYERS)
ALL = (*WITHOUT_HEAD, 'head')
ROWS, QUERIES = 64, 8
MODELS = {'random GPT-2': ALL, 'random GPT-2 without its head': WITHOUT_HEAD}
PACKAGES = {  # package -> (its module here, of MODELS)
  'kronfluence': ('peers_kronfluence', 'random GPT-2'),
  'dattri-llm': ('peers_dattri_llm', 'random GPT-2'),
  'bergson': ('peers_bergson', 'random GPT-2 without its head'),
}
METHODS = {
  'Grad-Dot': tda.grad_dot(),
  'EKFAC data labels': tda.influence(tda.ekfac(labels='data')),
}


def compared() -> list[dict]:
  """Seconds of all, and how alike their scores are to ours."""
  params, sizes = read_decoder.read(torch_gpt2.FOLDER)
  params = jax.tree.map(jax.numpy.asarray, params)
  train, queries = (
    torch_gpt2.rows_of(count, seed, sizes.vocabulary)
    for seed, count in enumerate((ROWS, QUERIES))
  )
  found, ours = [], {}
  for model, only in MODELS.items():
    problem = tda.language_modeling(decoder.decoder(sizes)[1], only=only)
    for method, made in METHODS.items():
      seconds, ours[method, model] = torch_models.timed(
        lambda made=made, problem=problem: tda.attribute(
          made, problem, params, train, queries
        )
      )
      found.append(benchmark.figure(f'{method}, {model}', 'seconds', seconds))
  for package, (module, model) in PACKAGES.items():
    peer = imported(module)
    for method in METHODS:
      seconds, theirs = torch_models.timed(
        lambda peer=peer, method=method: peer.scores(train, queries, method)
      )
      alike = torch_models.agreement(ours[method, model], theirs)
      name = f'{method}, {model}'
      found += [
        benchmark.figure(f'{package} {name}', 'seconds', seconds),
        benchmark.figure(name, f'pearson with {package}', alike),
      ]
  return found


def imported(module: str):
  """The module of a package, or a sentence that says what is not there."""
  try:
    return importlib.import_module(f'scripts.{module}')
  except ImportError as error:
    raise SystemExit(
      f'the comparison needs {error.name}: {torch_gpt2.HINT}'
    ) from None


def main():
  start, facts = time.monotonic(), record.environment()
  rows = benchmark.measured(compared)
  goals = [
    (f'{method}, {model}', f'pearson with {package}', 0.999)
    for package, (_, model) in PACKAGES.items()
    for method in METHODS
  ]
  claims = benchmark.judged(rows, goals)
  record.results(RESULTS, 'peers', 'a decoder', rows, claims)
  packages = ('torch', 'transformers', *PACKAGES)
  versions = {name: metadata.version(name) for name in packages}
  benchmark.sign(RESULTS, start, facts, **versions)


if __name__ == '__main__':
  main()
