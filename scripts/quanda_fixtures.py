"""What the metrics of the package quanda say, for tests/evaluation/test_against_quanda.py.

  python -m scripts.quanda_fixtures

Writes tests/evaluation/quanda.npz: score matrices (random, with ties, with
constants), what the metrics are about, and the values of quanda's classes for
each query. quanda is not among our dependencies and does not go with them: run
it in an environment of its own, `pip install quanda==0.5.0 omegaconf
'pyarrow<24'`. It needs nothing of tda_jax.
"""

import functools
import pathlib
import tempfile
import warnings
from importlib import metadata

import numpy as np
import torch
from quanda.metrics import downstream_eval, ground_truth, heuristics

FILE = pathlib.Path(__file__).parents[1] / 'tests/evaluation/quanda.npz'
ROWS, QUERIES, CLASSES, SUBSETS = 40, 24, 4, 30
LABEL = 0  # of the shortcut and of foreign rows
KS = (1, 5)


def drawn() -> dict:
  """Inputs, of values that float32 holds exactly."""
  rng = np.random.default_rng(0)
  labels = rng.integers(CLASSES, size=ROWS)
  of_label = np.flatnonzero(labels == LABEL)
  constant = rng.normal(size=(ROWS, QUERIES))
  constant[:, ::3] = [0.0, 3.0, -1.0, 0.1] * 2
  scores = [
    rng.normal(size=(ROWS, QUERIES)),
    rng.integers(-2, 3, (ROWS, QUERIES)),
    constant,
  ]
  subsets = np.argsort(rng.random((SUBSETS, ROWS)), 1)[:, : ROWS // 2]
  return {
    'scores': np.stack(scores).astype(np.float32),
    'randomised': rng.integers(-9, 10, (ROWS, QUERIES)).astype(np.float32),
    'labels': labels,
    'subclasses': labels + CLASSES * rng.integers(2, size=ROWS),
    'query_labels': rng.integers(CLASSES, size=QUERIES),
    'query_subclasses': rng.integers(2 * CLASSES, size=QUERIES),
    'logits': (rng.normal(size=(QUERIES, CLASSES)) + [1, 0, 0, 0]).astype('f'),
    'flagged': np.isin(np.arange(ROWS), of_label[::2]),
    'relevant': rng.random((ROWS, QUERIES)) < 0.1,
    'self_influence': np.stack(
      [rng.permutation(ROWS), rng.integers(5, size=ROWS)]
    ).astype(np.float32),
    'subsets': subsets,
    'subset_logits': rng.normal(size=(SUBSETS, QUERIES, CLASSES)).astype('f'),
  }


class Given:
  """An explainer whose explanations are known."""

  explanations = None

  def __init__(self, **kwargs):
    pass

  def explain(self, test_data, targets=None):
    return self.explanations


def of_queries(t: dict, checkpoint: str):
  """Yields (name, class with its arguments, arguments of `update`)."""
  seen = {'test_data': t['logits']}
  target = {'test_targets': t['query_labels'], **seen}
  label = {'test_labels': t['query_labels'], **seen}
  entailed = {'entailment_labels': t['relevant'].T}
  shortcut = np.flatnonzero(t['flagged']).tolist()
  yield (
    'shortcut',
    functools.partial(
      downstream_eval.ShortcutDetectionMetric,
      shortcut_indices=shortcut,
      shortcut_cls=LABEL,
    ),
    label,
  )
  yield 'reciprocal_rank', downstream_eval.MRRMetric, entailed
  for kind in ('spearman', 'kendall'):
    randomised = functools.partial(
        heuristics.ModelRandomizationMetric, model_id='',
        cache_dir=str(pathlib.Path(checkpoint).parent),
        checkpoints=[checkpoint], explainer_cls=Given, correlation_fn=kind,
    )  # fmt: skip
    yield f'randomisation_{kind}', randomised, seen
    datamodel = functools.partial(
        ground_truth.LinearDatamodelingMetric, alpha=0.5, m=SUBSETS,
        correlation_fn=kind, subset_ids=t['subsets'].tolist(),
        subset_ckpt_filenames=[checkpoint] * SUBSETS,
    )  # fmt: skip
    logits = {'subset_logits': dict(enumerate(t['subset_logits']))}
    yield f'lds_{kind}', datamodel, target | logits
  for k in KS:
    cardinality = functools.partial(heuristics.TopKCardinalityMetric, top_k=k)
    yield f'cardinality_{k}', cardinality, {}
    hits = functools.partial(downstream_eval.RecallAtKMetric, k=k)
    yield f'hits_{k}', hits, entailed
  for name, kept in (('', False), ('_predicted', True)):
    mixed = functools.partial(
      heuristics.MixedDatasetsMetric,
      adversarial_indices=t['flagged'].long(),
      filter_by_prediction=kept,
    )
    yield f'mixed{name}', mixed, label
    for k in KS:
      which = {'s': k, 'filter_by_prediction': kept}
      of_class = functools.partial(
        downstream_eval.ClassDetectionMetric, **which
      )
      yield f'class_detection{name}_{k}', of_class, target
      of_subclass = functools.partial(
        downstream_eval.SubclassDetectionMetric,
        train_subclass_labels=t['subclasses'],
        **which,
      )
      classes = {
        'test_targets': t['query_subclasses'],
        'test_superclass_targets': t['query_labels'],
      }
      yield f'subclass_detection{name}_{k}', of_subclass, seen | classes


def measured(given: dict, checkpoint: str) -> dict:
  """Values of quanda's metrics, for each of the three score matrices."""
  t = {name: torch.as_tensor(value) for name, value in given.items()}
  model = torch.nn.Linear(CLASSES, CLASSES, bias=False)
  model.weight.data = torch.eye(CLASSES)  # predicts what it is given
  torch.save(model.state_dict(), checkpoint)
  train = [(torch.zeros(1), int(y)) for y in t['labels']]
  of = {'model': model, 'train_dataset': train}
  Given.explanations = t['randomised'].T
  found = {}
  for name, metric, update in of_queries(t, checkpoint):
    values = []
    for scores in t['scores']:
      one = metric(**of)
      one.update(scores.T, **update)
      each = one._per_sample_scores()
      values.append(one.compute()['score'] if each is None else each.numpy())
    found[name] = np.array(values)
  areas = [
    downstream_eval.MislabelingDetectionMetric(
      **of,
      mislabeling_indices=np.flatnonzero(given['flagged']).tolist(),
      precomputed_self_influence=one,
    ).compute()
    for one in t['self_influence']
  ]
  found['mislabel_area'] = np.array([one['score'] for one in areas])
  found['found_curve'] = np.stack([one['curve'].numpy() for one in areas])
  return found


if __name__ == '__main__':
  warnings.filterwarnings('ignore')
  inputs = drawn()
  with tempfile.TemporaryDirectory() as folder:
    values = measured(inputs, f'{folder}/model.pt')
  np.savez_compressed(
    FILE,
    version=metadata.version('quanda'),
    **inputs,
    **{f'quanda_{name}': value for name, value in values.items()},
  )
  print(f'{FILE}: {FILE.stat().st_size} bytes')
