"""A page of claims and the sentences that support them."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from tda_jax.report import page


class Sentence(NamedTuple):
  """A sentence that supports a claim.

  Attributes:
    row: its number in the corpus.
    sentence, reason: texts.
    influence: share of sentences that a method ranks below it; None: not known.
  """

  row: int
  sentence: str
  reason: str
  influence: float | None = None


class Claim(NamedTuple):
  """A claim, what supports it, and what was judged besides.

  Attributes:
    refused: (sentence, probability) of the likeliest that do not support it.
    judged, leaves: how many sentences and leaves.
  """

  claim: str
  evidence: Sequence[Sentence]
  refused: Sequence[tuple[str, float]]
  judged: int
  leaves: int


def write(
  path: str | os.PathLike, title: str, about: str, claims: Sequence[Claim]
) -> str:
  """Writes the page, whole or not at all; returns its path."""
  return page.render(
    path,
    'evidence.html',
    **_content(title, about, claims),
    form=False,
    typed='',
  )


def served(title: str, about: str, claims: Sequence[Claim], typed: str) -> str:
  """The page as text, with a form to type a claim into; `typed` stands in it."""
  content = _content(title, about, claims)
  return page.text('evidence.html', **content, form=True, typed=typed)


def _content(title, about, claims):
  return {'title': title, 'about': page.paragraphs(about), 'claims': claims}
