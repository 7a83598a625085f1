"""Readers of claims with evidence, on files of the datasets' true fields."""

import json

import pytest

from tda_jax.data import evidence


def written(path, rows):
  path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n')
  return path


def of_vitaminc(claim, text, label):
  return {
    'unique_id': '5ec0a3cc_1',
    'case_id': '5ec0a3cc',
    'page': 'Chad',
    'claim': claim,
    'evidence': text,
    'label': label,
    'revision_type': 'real',
  }


VITAMINC = [
  of_vitaminc('Over 10 died.', '11 people died.', 'SUPPORTS'),
  of_vitaminc('Over 10 died.', '9 people died.', 'REFUTES'),
  of_vitaminc('Under 10 died.', '9 people died.', 'SUPPORTS'),
  of_vitaminc('Under 10 died.', 'Rain fell.', 'NOT ENOUGH INFO'),
  of_vitaminc('Snow fell.', 'Rain fell.', 'REFUTES'),
]


def test_vitaminc(tmp_path):
  path = written(tmp_path / 'test.jsonl', VITAMINC)
  made = evidence.vitaminc(path, queries=2)
  assert made.sentences == ('11 people died.', '9 people died.', 'Rain fell.')
  assert made.claims == ('Over 10 died.', 'Under 10 died.')
  assert made.supports.tolist() == [
    [True, False],
    [False, True],
    [False, False],
  ]
  more = [of_vitaminc(f'claim {i}', f'text {i}', 'REFUTES') for i in range(9)]
  path = written(path, [*VITAMINC, *more])
  some = evidence.vitaminc(path, queries=2, sentences=5)
  assert len(some.sentences) == 5 and some.sentences[:3] == made.sentences
  for options, said in (
    ({'queries': 3}, 'has 2 claims with evidence, and queries=3'),
    ({'queries': 2, 'sentences': 2}, 'sentences=2, and the 2 claims have 3'),
  ):
    with pytest.raises(ValueError, match=said):
      evidence.vitaminc(path, **options)


ABSTRACTS = [
  {
    'inputs_pretokenized': f'<extra_id_0> is the capital of {country}.',
    'targets_pretokenized': f'<extra_id_0> {city}',
    'masked_uri': 'Q90',
    'page_uri': 'Q142',
    'facts': facts,
  }
  for city, country, facts in (
    ('Paris', 'France', 'P36,Q142,Q90;P17,Q90,Q142'),
    ('Rome', 'Italy', 'P36,Q38,Q220'),
  )
] + [
  {
    'inputs_pretokenized': 'Paris is the capital of <extra_id_0>.',
    'targets_pretokenized': '<extra_id_0> France',
    'masked_uri': 'Q142',
    'page_uri': 'Q142',
    'facts': 'P1376,Q90,Q142',
  }
]


def query(text, target, predicate, subject, of):
  return {
    'inputs_pretokenized': text,
    'targets_pretokenized': target,
    'uuid': '1',
    'predicate_id': predicate,
    'sub_uri': subject,
    'obj_uri': of,
  }


def test_ftrace(tmp_path):
  abstracts = written(tmp_path / 'abstracts.jsonl', ABSTRACTS)
  asked = [
    query('France is led from <extra_id_0>.', '<extra_id_0> Paris', 'P36', 'Q142', 'Q90'),
    query('Paris leads <extra_id_0>.', '<extra_id_0> France', 'P1376', 'Q90', 'Q142'),
    query('Oslo leads <extra_id_0>.', '<extra_id_0> Norway', 'P1376', 'Q585', 'Q20'),
  ]  # fmt: skip
  queries = written(tmp_path / 'queries.jsonl', asked)
  made = evidence.ftrace(abstracts, queries, queries=2)
  assert made.sentences == (
    'Paris is the capital of France.',
    'Rome is the capital of Italy.',
  )
  assert made.claims == ('France is led from Paris.', 'Paris leads France.')
  assert made.supports.tolist() == [[True, True], [False, False]]
  with pytest.raises(ValueError, match='has 2 claims with evidence'):
    evidence.ftrace(abstracts, queries, queries=3)


@pytest.mark.parametrize(
  'text, said',
  [
    ('{"claim": "a", "evidence": "b"}', r"line 1 has no text 'label'"),
    ('{"claim": "a", "evidence": 3, "label": "REFUTES"}', "no text 'evidence'"),
    ('[1]', "no text 'claim'"),
    ('{"claim": ', 'line 1 is no JSON'),
    ('{"claim": "a", "evidence": "b", "label": "MAYBE"}', "label 'MAYBE'"),
  ],
)
def test_damaged_files(tmp_path, text, said):
  path = tmp_path / 'a.jsonl'
  path.write_text(text + '\n')
  with pytest.raises(ValueError, match=said):
    evidence.vitaminc(path)
  with pytest.raises(ValueError, match='cannot be read .No such file'):
    evidence.vitaminc(tmp_path / 'none.jsonl')


def test_a_users_own_texts(tmp_path):
  folder = tmp_path / 'corpus'
  (folder / 'more').mkdir(parents=True)
  (folder / 'a.txt').write_text('One line.\nTwo lines.\nOne line.\n')
  (folder / 'more' / 'b.jsonl').write_text('{"text": "A third."}\n')
  (tmp_path / 'claims.txt').write_text('A claim.\n')
  made = evidence.texts(folder, tmp_path / 'claims.txt')
  assert made == (('One line.', 'Two lines.', 'A third.'), ('A claim.',), None)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='has no files of'):
    evidence.texts(tmp_path / 'empty', tmp_path / 'claims.txt')
