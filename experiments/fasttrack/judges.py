"""Encoder and judges of a config: what is read, what is trained, what is asked."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.shared import minilm, timing
from tda_jax.data import claims as claims_lib
from tda_jax.models import encoder, tokens
from tda_jax.tracing.judges import client, endpoint, entailment, kept
from tda_jax.tracing.judges.judge import Judge

SEEN, UNSEEN = (
  tuple(range(8)),
  (0, 1, 2, 3),
)  # words that a judge has learnt from


class Encoder(NamedTuple):
  """What texts are embedded and pairs are read with.

  Attributes:
    encode: texts -> rows of length 1.
    name: that it is known by.
    reader: see `entailment.Reader`.
  """

  encode: Callable
  name: str
  reader: entailment.Reader


class Judged(NamedTuple):
  """A judge, the probability from which a sentence supports, and its figures.

  Attributes:
    judge: whose answers are kept.
    threshold: of its probabilities.
    quality: metric -> value on held-out pairs; of an endpoint none.
    seconds: of training; 0 of an endpoint.
  """

  judge: Judge
  threshold: float
  quality: dict[str, float]
  seconds: float


def encoder_of(config, sentences, workdir: pathlib.Path) -> Encoder:
  """The encoder that `config.tracing` names.

  Raises:
    ValueError: MiniLM is absent.
  """
  trained, length = config.judge.blocks, config.judge.length
  if config.tracing.encoder == 'words':
    return _of_words(sentences, trained, length)
  folder = minilm.folder(config.tracing.path, workdir, 'tracing.path')
  params, sizes = encoder.read(folder)
  reader = entailment.Reader(
    sizes, params, tokens.read(folder), trained, length
  )
  return Encoder(encoder.embedder(folder), 'all-MiniLM-L6-v2', reader)


def _of_words(sentences, trained, length) -> Encoder:
  """TF-IDF vectors, and a small BERT of random weights: they need no file."""
  from sklearn.decomposition import TruncatedSVD
  from sklearn.feature_extraction.text import TfidfVectorizer
  from tokenizers import Tokenizer, models, pre_tokenizers, processors

  vectors = TfidfVectorizer(token_pattern=r'(?u)\w+').fit(sentences)
  rank = min(64, len(sentences) - 1, len(vectors.vocabulary_) - 1)
  axes = TruncatedSVD(rank, random_state=0).fit(vectors.transform(sentences))
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]']
  vocabulary = {
    w: i for i, w in enumerate([*special, *sorted(vectors.vocabulary_)])
  }
  made = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.post_processor = processors.TemplateProcessing(
    '[CLS] $A [SEP]',
    '[CLS] $A [SEP] $B:1 [SEP]:1',
    [('[CLS]', 2), ('[SEP]', 3)],
  )
  sizes = encoder.Sizes(len(vocabulary), 8, 1, 2, 16, 64)
  init = jax.jit(encoder.encoder(sizes)[0])  # else each operation is compiled
  params = jax.tree.map(np.asarray, init(jax.random.key(0)))
  encode = lambda texts: 1e-6 + axes.transform(vectors.transform(list(texts)))
  reader = entailment.Reader(sizes, params, made, trained, min(length, 64))
  return Encoder(encode, f'TF-IDF, rank {rank}', reader)


def judges_of(
  config, model: Encoder, workdir: pathlib.Path
) -> dict[str, Judged]:
  """Name -> judge: trained ones by the words that they have seen, or an endpoint."""
  own = config.judge
  if own.kind == 'endpoint':
    if not own.model:
      raise ValueError(
        'an endpoint needs the name of its model: --config.judge.model=NAME'
      )
    to = client.client(at_once=own.at_once, calls=own.calls or None)
    judge = endpoint.judge(
      to, own.model, folder=workdir / 'answers' / 'endpoint'
    )
    return {'fasttrack': Judged(judge, 0.5, {}, 0.0)}
  names = {'fasttrack': SEEN, 'fasttrack, unseen words': UNSEEN}
  return {
    name: _trained(config, model, templates, workdir)
    for name, templates in names.items()
  }


def _trained(config, model, templates, workdir) -> Judged:
  """A judge that learnt from countries that no claim is about."""
  own = config.judge
  pairs, supports, claim_of = pairs_for(config, model.encode, templates)
  cut = int(np.quantile(claim_of, 1 - own.held_out))
  learnt = claim_of < max(cut, 1)
  part = lambda mask: [p for p, take in zip(pairs, mask, strict=True) if take]
  stage = f'judges/{len(templates)}_words'
  work = functools.partial(
    entailment.train,
    model.reader,
    part(learnt),
    supports[learnt],
    steps=own.steps,
    batch_size=own.batch_size,
    learning_rate=own.learning_rate,
    seed=config.seed,
    directory=workdir / stage,
  )
  trained = timing.timed(workdir, stage, work)
  held, truth = part(~learnt), supports[~learnt]
  trained = entailment.calibrated(trained, held, truth)
  likely = entailment.probabilities(trained, held)
  threshold = entailment.threshold(likely, truth)
  judge = kept.kept(
    entailment.judge(trained), workdir / 'answers' / f'{len(templates)}_words'
  )
  quality = quality_of(likely, truth, threshold)
  return Judged(judge, threshold, quality, timing.on(workdir, stage))


def pairs_for(config, encode, templates):
  """(pairs, whether the second supports, number of the claim), of other countries.

  Of each claim: what supports and contradicts it, decoys, and the sentences nearest
  to it that do not support it, with which a judge of random pairs is fooled.
  """
  own = config.judge
  _, others = claims_lib.parted(config.data.seed)
  made = claims_lib.corpus(
    own.sentences,
    own.claims,
    seed=config.data.seed + 1,
    countries=others,
    templates=templates,
  )
  rows, claims = encode(made.sentences), encode(made.claims)
  near = np.argsort(-np.asarray(claims) @ np.asarray(rows).T, 1, kind='stable')
  rng = np.random.default_rng([config.seed, len(templates)])
  pairs, supports, claim_of = [], [], []
  for q, claim in enumerate(made.claims):
    positive = np.flatnonzero(made.supports[:, q])
    negative = [i for i in near[q] if not made.supports[i, q]][: own.hard]
    about = made.facts[q][:2]  # relation and subject
    same = [
      i
      for i, fact in enumerate(made.stated)
      if fact[:2] == about and not made.supports[i, q]
    ]
    others = rng.choice(len(made.sentences), 2)
    chosen = dict.fromkeys(
      [
        *positive,
        *negative,
        *same,
        *(i for i in others if not made.supports[i, q]),
      ]
    )
    pairs += [(claim, made.sentences[i]) for i in chosen]
    supports += [bool(made.supports[i, q]) for i in chosen]
    claim_of += [q] * len(chosen)
  return pairs, np.array(supports), np.array(claim_of)


def quality_of(likely, truth, threshold) -> dict[str, float]:
  """AUC, accuracy, and the shares of wrong answers, on pairs."""
  from sklearn.metrics import roc_auc_score

  says = likely >= threshold
  return {
    'AUC, held-out pairs': float(roc_auc_score(truth, likely)),
    'accuracy, held-out pairs': float((says == truth).mean()),
    'false positives, held-out pairs': float(says[~truth].mean()),
    'false negatives, held-out pairs': float((~says[truth]).mean()),
  }
