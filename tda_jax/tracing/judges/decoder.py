"""A decoder of ours as a judge: what it says next, or what a claim gains.

Small models say No, or Yes, to everything (SmolLM2-135M does): what their two
probabilities are worth is measured before they are believed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.models import decoder as decoder_lib
from tda_jax.models.decoder import Sizes
from tda_jax.storage import fingerprint
from tda_jax.tracing.judges.judge import Judge, Usage, of_pairs
from tda_jax.trees import PyTree

QUESTION = (
  'Sentence: {sentence}\nClaim: {claim}\nDoes the sentence support the claim?'
  ' Answer yes or no.\nAnswer:'
)
STATED = 'It is known that {sentence} Therefore, {claim}'
PRIOR = 'Therefore, {claim}'


class Reader(NamedTuple):
  """A decoder and its tokens: of `read_decoder.read` and `tokens.read`."""

  sizes: Sizes
  params: PyTree
  tokenizer: Any


def yes_or_no(
  reader: Reader,
  *,
  question: str = QUESTION,
  answers: tuple[str, str] = (' Yes', ' No'),
  batch_size: int = 8,
) -> Judge:
  """P(yes) / (P(yes) + P(no)) of the first token after the question.

  Args:
    question: with {claim} and {sentence}; a chat model's own marks around it.
    answers: yes and no, which must differ in their first token.

  Raises:
    ValueError: they do not; the question lacks the claim or the sentence.
  """
  _check_fields(question, ('claim', 'sentence'))
  yes, no = (_ids(reader, answer, False)[0] for answer in answers)
  if yes == no:
    raise ValueError(
      f'the answers {answers} begin with the same token: give others'
    )

  def likely(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    rows = [
      _ids(reader, question.format(claim=claim, sentence=sentence))
      for claim, sentence in pairs
    ]
    ends = _last_logits(reader, rows, batch_size)
    return 1 / (1 + np.exp(np.clip(ends[:, no] - ends[:, yes], -60, 60)))

  return _judge(reader, likely, ['yes or no', question, answers])


def gain(
  reader: Reader,
  *,
  stated: str = STATED,
  prior: str = PRIOR,
  scale: float = 1.0,
  offset: float = 0.0,
  batch_size: int = 8,
) -> Judge:
  """σ(scale · (log p(claim | sentence) − log p(claim)) + offset), in nats.

  Args:
    stated: with {sentence} and then {claim}, at its end.
    prior: with {claim} at its end.
    scale, offset: to be fitted to pairs whose answer is known.

  Raises:
    ValueError: the claim does not end the texts.
  """
  _check_fields(stated, ('claim', 'sentence'))
  _check_fields(prior, ('claim',))
  for text in (stated, prior):
    if not text.endswith('{claim}'):
      raise ValueError(f'{text!r} does not end with {{claim}}: let it')

  def likely(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    logs = []
    for text in (stated, prior):
      before = text.removesuffix('{claim}')
      rows, starts = [], []
      for claim, sentence in pairs:
        first = _ids(reader, before.format(sentence=sentence).rstrip())
        rows.append(first + _ids(reader, f' {claim}', False))
        starts.append(len(first))
      logs.append(_log_likelihood(reader, rows, starts, batch_size))
    z = scale * (logs[0] - logs[1]) + offset
    return 1 / (1 + np.exp(-np.clip(z, -60, 60)))

  return _judge(reader, likely, ['gain', stated, prior, scale, offset])


def _judge(reader, likely: Callable, settings) -> Judge:
  count = [0, 0]

  def counted(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    count[0] += len(pairs)
    count[1] += sum(len(_ids(reader, f'{a} {b}')) for a, b in pairs)
    return likely(pairs)

  digest = fingerprint.digest(reader.params)
  known_by = f'decoder {digest}, {settings!r}'
  answers = functools.partial(of_pairs, counted)
  return Judge(answers, known_by, lambda: Usage(*count))


def _check_fields(text, fields):
  for field in fields:
    if f'{{{field}}}' not in text:
      raise ValueError(f'{text!r} has no {{{field}}}: write it where it goes')


def _ids(reader, text, begins=True) -> list[int]:
  """Ids of a text, with the tokens that begin a text where it is one."""
  return reader.tokenizer.encode(text, add_special_tokens=begins).ids


@functools.lru_cache(8)
def _program(sizes):
  apply = decoder_lib.decoder(sizes)[1]
  return jax.jit(lambda params, ids: jax.nn.log_softmax(apply(params, ids)))


def _batches(reader, rows, batch_size):
  """(numbers of rows, log-probabilities [B, T, V]), rows of like length together."""
  lengths = np.array([len(row) for row in rows])
  if lengths.max() > reader.sizes.context:
    raise ValueError(
      f'a question has {lengths.max()} tokens, and the model'
      f' {reader.sizes.context} positions: give shorter sentences'
    )
  params = jax.tree.map(jnp.asarray, reader.params)
  order = np.argsort(lengths, kind='stable')
  for start in range(0, len(rows), batch_size):
    chosen = order[start : start + batch_size]
    width = min(-(-lengths[chosen].max() // 16) * 16, reader.sizes.context)
    ids = np.zeros((batch_size, width), np.int32)
    for place, i in enumerate(chosen):
      ids[place, : lengths[i]] = rows[i]
    yield chosen, np.asarray(_program(reader.sizes)(params, ids))


def _last_logits(reader, rows, batch_size):
  """Log-probabilities of the token after each row, [N, V]."""
  out = np.zeros((len(rows), reader.sizes.vocabulary), np.float32)
  for chosen, logs in _batches(reader, rows, batch_size):
    for place, i in enumerate(chosen):
      out[i] = logs[place, len(rows[i]) - 1]
  return out


def _log_likelihood(reader, rows, starts, batch_size):
  """Σ log p of the tokens from `starts` on, given those before, [N].

  The first token of a row has nothing before it and does not count.
  """
  out = np.zeros(len(rows))
  for chosen, logs in _batches(reader, rows, batch_size):
    for place, i in enumerate(chosen):
      at = np.arange(max(starts[i], 1), len(rows[i]))
      out[i] = logs[place, at - 1, np.array(rows[i])[at]].sum()
  return out
