"""Words of sentences, and labels of leaves made of them."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

WORD = re.compile(r"[^\W_]+(?:[-'’.,][^\W_]+)*")
STOP = frozenset(  # words that say nothing of what a sentence is about
  'a about across all also an and any are as at be been but by can could does for'
  ' from had has have he her his how if in into is it its may more most near no not'
  ' of on one or other our over she some such than that the their them then there'
  ' these they this those to under was we were what when where which who will with'
  ' would you'.split()
)


def content(text: str) -> list[str]:
  """The words of a text that are no stop words, lower-cased, each once, in order."""
  words = (word.lower() for word in WORD.findall(text))
  return list(dict.fromkeys(word for word in words if word not in STOP))


def capitalised(text: str) -> frozenset[str]:
  """Words that begin with a capital or a digit, lower-cased: names, as a rule."""
  return frozenset(
    word.lower()
    for word in WORD.findall(text)
    if (word[0].isupper() or word[0].isdigit()) and word.lower() not in STOP
  )


def by_content(
  leaves: Sequence[Sequence[str]], cut: float = 1.0
) -> list[list[str]]:
  """Labels: the content words of a leaf, rarest over leaves first.

  Args:
    leaves: sentences of each.
    cut: words that occur in a larger share of the leaves label none.

  Raises:
    ValueError: a cut that is not within 0 to 1.
  """
  if not 0 < cut <= 1:
    raise ValueError(f'cut={cut} of the leaves: give a share above 0, to 1')
  words = [
    set().union(*(content(sentence) for sentence in leaf)) for leaf in leaves
  ]
  leaves_of = Counter(word for of in words for word in of)
  most = max(1.0, cut * len(leaves))
  order = lambda word: (leaves_of[word], word)
  return [
    sorted((w for w in of if leaves_of[w] <= most), key=order) for of in words
  ]


def most_telling(count: int) -> Callable[[Sequence[Sequence[str]]], list]:
  """Labels: the `count` words of a leaf of the highest tf · ln(leaves / df)."""

  def label(leaves: Sequence[Sequence[str]]) -> list[list[str]]:
    counts = [
      Counter(word for sentence in leaf for word in content(sentence))
      for leaf in leaves
    ]
    leaves_of = Counter(word for of in counts for word in of)
    weight = lambda of, word: of[word] * math.log(len(leaves) / leaves_of[word])
    return [
      sorted(of, key=lambda word, of=of: (-weight(of, word), word))[:count]
      for of in counts
    ]

  return label
