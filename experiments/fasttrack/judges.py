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
from tda_jax.tracing import candidates, index
from tda_jax.tracing.judges import client, endpoint, entailment, kept
from tda_jax.tracing.judges.judge import Judge

HELD_OUT = 'held-out candidates'
WRONG = ('positives', 'negatives')


class Words(NamedTuple):
  """Numbers of the templates that a judge meets before ours, in which are all 8.

  Attributes:
    learnt: of the statements that it learns from.
    weighed: of the statements by which its threshold is chosen. Words that it has
      learnt say nothing about others: of those it is less sure.
  """

  learnt: tuple[int, ...]
  weighed: tuple[int, ...]


WORDS = {
  'fasttrack': Words(tuple(range(8)), tuple(range(8))),
  'fasttrack, unseen words': Words((0, 1, 2), (3,)),
}


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
    quality: metric -> value on held-out candidates; of an endpoint none.
    seconds: of all that it took, once; 0 of an endpoint.
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
  return {
    name: _trained(config, model, words, workdir)
    for name, words in WORDS.items()
  }


def searched(config, sentences, model: Encoder, folder) -> candidates.Search:
  """Sentences, indexed as `config.tracing` says and ready to be searched."""
  own = config.tracing
  made = index.index(
    folder,
    sentences,
    model.encode,
    encoder=model.name,
    most=own.most,
    branches=own.branches,
    seed=config.seed,
  )
  return candidates.search(made, model.encode)


def _trained(config, model, words: Words, workdir) -> Judged:
  """A judge that learnt from countries that no claim is about."""
  stage = f'judges/{len(words.learnt)}_words'
  work = functools.partial(_learnt, config, model, words, workdir, stage)
  trained, threshold, quality = timing.timed(workdir, stage, work)
  judge = kept.kept(
    entailment.judge(trained),
    workdir / 'answers' / f'{len(words.learnt)}_words',
  )
  return Judged(judge, threshold, quality, timing.on(workdir, stage))


def _learnt(config, model, words, workdir, stage):
  """(judge, threshold, quality): trained on some claims, weighed on others."""
  own = config.judge
  made, search = _corpus(config, words.learnt, model, workdir)
  cut = max(1, round(len(made.claims) * (1 - own.held_out)))
  pairs, supports = taught(config, made, search, range(cut))
  trained = entailment.train(
    model.reader,
    pairs,
    supports,
    steps=own.steps,
    batch_size=own.batch_size,
    learning_rate=own.learning_rate,
    seed=config.seed,
    directory=workdir / stage,
  )
  made, search = _corpus(
    config, {*words.learnt, *words.weighed}, model, workdir
  )
  of_claims = range(cut, len(made.claims))
  held, truth, missed = held_out(config, made, search, of_claims, words.weighed)
  trained = entailment.calibrated(trained, held, truth)
  likely = entailment.probabilities(trained, held)
  threshold = entailment.threshold(likely, truth, missed)
  return trained, threshold, quality_of(likely, truth, threshold)


def _corpus(
  config, templates, model, workdir
) -> tuple[claims_lib.Corpus, candidates.Search]:
  """Claims and sentences about the countries that no claim of ours is about.

  For all templates claims are about the same facts, in the same order.
  """
  made = claims_lib.corpus(
    config.judge.sentences,
    config.judge.claims,
    seed=config.data.seed + 1,
    countries=claims_lib.parted(config.data.seed)[1],
    templates=templates,
  )
  folder = workdir / f'judges/{len(templates)}_words_index'
  return made, searched(config, made.sentences, model, folder)


def taught(
  config, corpus: claims_lib.Corpus, search: candidates.Search, claims
) -> tuple[list[tuple[str, str]], np.ndarray]:
  """(pairs, whether the second supports) that a judge learns from.

  Of each claim: what supports and contradicts it, decoys, the sentences nearest to
  it that do not support it, with which a judge of random pairs is fooled, and two
  random ones.
  """
  rows = search.index.embeddings
  rng = np.random.default_rng([config.seed, len(corpus.sentences)])
  pairs, supports = [], []
  for q in claims:
    does = corpus.supports[:, q]
    near = np.argsort(
      -(rows @ index.unit(search.encode([corpus.claims[q]]), 1)[0]),
      kind='stable',
    )
    about = corpus.facts[q][:2]  # relation and subject
    same = [i for i, fact in enumerate(corpus.stated) if fact[:2] == about]
    against = [
      *near[~does[near]][: config.judge.hard],
      *(i for i in same if not does[i]),
      *(i for i in rng.choice(len(does), 2) if not does[i]),
    ]
    chosen = [*dict.fromkeys([*np.flatnonzero(does), *against])]
    pairs += [(corpus.claims[q], corpus.sentences[i]) for i in chosen]
    supports.append(does[chosen])
  return pairs, np.concatenate(supports)


def held_out(
  config,
  corpus: claims_lib.Corpus,
  search: candidates.Search,
  claims,
  templates,
) -> tuple[list[tuple[str, str]], np.ndarray, int]:
  """(pairs, whether they support, positives missed): candidates of other claims.

  They are as what the judge will be asked: by the same way, at the same rate of
  positives, on which calibration and threshold depend.

  Args:
    templates: numbers of the words of statements that count; decoys count too.
  """
  own, pairs, truth = config.tracing, [], []
  settings = {'way': own.way, 'budget': own.budget, 'fuzz': own.fuzz}
  counts = np.isin(corpus.templates, [*templates, -1])
  for q in claims:
    rows = candidates.candidates(search, corpus.claims[q], **settings).rows
    rows = rows[counts[rows]]
    pairs += [(corpus.claims[q], corpus.sentences[i]) for i in rows]
    truth.append(corpus.supports[rows, q])
  truth = np.concatenate(truth)
  missed = corpus.supports[counts][:, [*claims]].sum() - truth.sum()
  return pairs, truth, int(missed)


def quality_of(likely, truth, threshold) -> dict[str, float]:
  """AUC, accuracy, and the shares of wrong answers, on pairs."""
  from sklearn.metrics import roc_auc_score

  says = likely >= threshold
  rates = {
    'AUC': roc_auc_score(truth, likely),
    'accuracy': (says == truth).mean(),
    'false positives': says[~truth].mean(),
    'false negatives': (~says[truth]).mean(),
  }
  return {f'{name}, {HELD_OUT}': float(rate) for name, rate in rates.items()}
