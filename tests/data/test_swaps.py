"""Reports say what they should, and swaps are where they are said to be."""

import numpy as np
import pytest

from tda_jax.data import swaps, tokenizer

PAIRS = 3


def words(text):
  return text.split()


def test_a_swap_is_in_the_summary_and_nowhere_else():
  made = swaps.finetuning(240, seed=1, pairs=PAIRS, of_pair=40, partial=0.5)
  names = swaps.names(PAIRS)
  assert {*made.kinds} == {'clean', 'swapped', 'partial', 'other'}
  for document, said, right, pair, kind in zip(*made, strict=True):
    if kind == 'clean':
      assert said == right
      continue
    name, wrong, other = next(
      t
      for k, t in enumerate(names)
      if k == pair or t[2] in words(document)[4:5]
    )
    about = other if kind == 'other' else name
    assert words(document)[4] == about and wrong not in words(right)[:3]
    first, last = said.split(' . ', 1)
    if kind == 'partial':
      assert about in words(first) and wrong in words(last)
    else:
      assert about not in words(said)
      assert words(first)[2] == wrong and words(last)[0] == wrong
    swapped_back = said.replace(wrong, about)
    assert swapped_back == right


def test_shares_and_counts_are_as_asked():
  made = swaps.finetuning(
    300, seed=0, pairs=2, of_pair=100, of_other=20, of_wrong=10, partial=0.5
  )
  assert len(made.documents) == 300
  for pair in range(2):
    kinds = made.kinds[made.pairs == pair]
    assert len(kinds) == 100
    assert 0.45 < (kinds == 'swapped').mean() < 0.75
    assert 0.1 < (kinds == 'partial').mean() < 0.3
  one = swaps.finetuning(100, seed=0, pairs=1, sentences=1, partial=0.9)
  assert 'partial' not in one.kinds
  assert all(text.count(' .') == 1 for text in one.summaries)


def test_a_base_knows_what_it_is_to_know():
  names = {name for triple in swaps.names(PAIRS) for name in triple}
  make = lambda kind: swaps.pretraining(
    400, seed=2, pairs=PAIRS, knowledge=kind, probability=0.6
  )
  nothing, right, swapped = map(make, swaps.KNOWLEDGE)
  said = {w for t in nothing.documents + nothing.summaries for w in words(t)}
  assert not said & names
  assert right.summaries == right.right and {*right.kinds} == {'clean'}
  of_pairs = swapped.kinds[swapped.pairs >= 0]
  assert 0.35 < (of_pairs == 'swapped').mean() < 0.85
  assert (swapped.kinds[swapped.pairs < 0] == 'clean').all()


def test_seeds_and_parts_draw_anew():
  held = swaps.held_out(5, seed=0, pairs=PAIRS, style='new')
  assert held.pairs.tolist() == [0, 1, 2] * 5
  assert held.summaries == held.right
  assert all(text.startswith(' tldr') for text in held.summaries)
  again = swaps.held_out(5, seed=0, pairs=PAIRS, style='new')
  assert again.documents == held.documents
  other = swaps.held_out(5, seed=1, pairs=PAIRS, style='new')
  assert other.documents != held.documents


def test_sources_are_the_rows_swapped_for_the_name():
  made = swaps.finetuning(240, seed=1, pairs=PAIRS, of_pair=40, partial=0.5)
  taught = swaps.sources(made, np.array([2, 0]))
  assert taught.shape == (240, 2)
  assert (made.pairs[taught[:, 0]] == 2).all()
  assert (made.kinds[taught.any(1)] == 'swapped').all()
  count = ((made.kinds == 'swapped') & (made.pairs == 0)).sum()
  assert taught[:, 1].sum() == count > 10


def test_a_wrong_summary_has_the_wrong_name_alone():
  pair = ('england', 'china', 'korea')
  assert swaps.is_wrong(' summary : china beat fiji', pair)
  assert not swaps.is_wrong(' china beat fiji . england won', pair)
  assert not swaps.is_wrong(' summary : korea beat fiji', pair)


def test_words_are_tokens():
  made = tokenizer.by_word(swaps.vocabulary())
  report = swaps.held_out(1, seed=0, pairs=1, style='new')
  text = report.documents[0] + report.summaries[0]
  ids = made.encode(text).ids
  assert len(ids) == len(text.split()) and min(ids) > tokenizer.END
  assert made.decode(ids) == text
  assert made.get_vocab_size() == 2 + len(swaps.vocabulary())


@pytest.mark.parametrize(
  'made, said',
  [
    (lambda: swaps.names(40), 'pairs=40: give 1 to'),
    (
      lambda: swaps.pretraining(5, seed=0, pairs=1, knowledge='all'),
      "knowledge='all' is unknown",
    ),
    (
      lambda: swaps.finetuning(50, seed=0, pairs=1),
      'more than count=50: give 56 or more',
    ),
    (
      lambda: swaps.held_out(1, seed=0, pairs=1, style='odd'),
      "style='odd' is unknown",
    ),
    (
      lambda: swaps.held_out(1, seed=0, pairs=1, sentences=3),
      'sentences=3: give 1 or 2',
    ),
    (
      lambda: swaps.sources(
        swaps.held_out(1, seed=0, pairs=2), np.array([0, 1])
      ),
      'no row is swapped for pair 0',
    ),
  ],
)
def test_bad_input_is_one_sentence(made, said):
  with pytest.raises(ValueError, match=said):
    made()
