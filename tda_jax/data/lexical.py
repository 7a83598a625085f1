"""Similarity of texts without a model of the task: BM25, cosine of embeddings.

Baselines of retrieval: they see what rows and queries say, not what was learnt.
"""

from collections.abc import Callable, Sequence

import numpy as np

K1, B = 1.5, 0.75
FORMS = ('lucene', 'bm25+')


def bm25(
  train_texts: Sequence[str],
  query_texts: Sequence[str],
  *,
  k1: float = K1,
  b: float = B,
) -> np.ndarray:
  """BM25 of each query and training text, float32 [N, Q], 0 and above.

  Σ over the query's words w (each time it occurs) of

    ln(1 + (N − n_w + 0.5) / (n_w + 0.5)) · f / (f + k1 (1 − b + b |d| / mean |d|))

  with f how often w is in the training text d, |d| its number of words, and n_w the
  number of training texts with w. Words are lower-cased runs of two or more letters
  or digits; none is left out.

  Source: Robertson & Zaragoza 2009, https://doi.org/10.1561/1500000019, in
  Lucene's form, by the package bm25s (Lù 2024, https://arxiv.org/abs/2407.03618)

  Raises:
    ValueError: there are no texts, or no word in the training texts; the package
      bm25s is missing.
  """
  return indexed(train_texts, k1=k1, b=b)(query_texts)


def indexed(
  train_texts: Sequence[str],
  *,
  k1: float = K1,
  b: float = B,
  form: str = 'lucene',
) -> Callable[[Sequence[str]], np.ndarray]:
  """Query texts -> `bm25`, float32 [N, Q]: the training texts are indexed once.

  Args:
    form: 'lucene', or 'bm25+', which adds 1 to the share of each word that a text
      has, so that long texts count (Lv & Zhai 2011,
      https://doi.org/10.1145/2063576.2063584).

  Raises:
    ValueError: as `bm25`; another form.
  """
  try:
    import bm25s
  except ImportError:
    raise ValueError(
      'BM25 takes the package bm25s: pip install "tda_jax[lm]"'
    ) from None
  if form not in FORMS:
    raise ValueError(f'form={form!r}: use one of {", ".join(FORMS)}')
  split = lambda texts: bm25s.tokenize(
    list(texts), stopwords=[], return_ids=False, show_progress=False
  )
  train_words = split(train_texts)
  index = bm25s.BM25(k1=k1, b=b, method=form)
  if any(train_words):
    index.index(train_words, show_progress=False)

  def scores(query_texts: Sequence[str]) -> np.ndarray:
    query_words = split(query_texts)
    if not any(train_words) or not len(query_words):
      raise ValueError(
        f'{len(train_words)} training texts with'
        f' {sum(map(len, train_words))} words, and {len(query_words)} queries:'
        ' give at least one of each'
      )
    return np.stack([_scores(index, words) for words in query_words], 1)

  return scores


def cosine(
  train_embeddings: np.ndarray, query_embeddings: np.ndarray
) -> np.ndarray:
  """Cosines of embeddings [N, D] and [Q, D], float32 [N, Q], −1 to 1.

  Raises:
    ValueError: the shapes do not fit; an embedding is zero or not finite.
  """
  train, queries = (
    np.asarray(x, np.float64) for x in (train_embeddings, query_embeddings)
  )
  if train.ndim != 2 or queries.ndim != 2 or train.shape[1] != queries.shape[1]:
    raise ValueError(
      f'embeddings of shapes {train.shape} and {queries.shape}: give [N, D] and'
      ' [Q, D]'
    )
  unit = [_unit(x, name) for x, name in ((train, 'train'), (queries, 'query'))]
  return (unit[0] @ unit[1].T).astype(np.float32)


def _unit(embeddings, name):
  norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
  wrong = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
  if wrong.any():
    raise ValueError(
      f'the {name} embedding {int(np.argmax(wrong))} is zero or not finite, and'
      ' has no direction: leave it out'
    )
  return embeddings / norms


def _scores(index, words):
  """BM25 [N] of one query; words that no training text has count nothing."""
  known = [word for word in words if word in index.vocab_dict]
  if not known:
    return np.zeros(index.scores['num_docs'], np.float32)
  return np.asarray(index.get_scores(known), np.float32)
