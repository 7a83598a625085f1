"""Judges behind an endpoint, against a server that speaks the real protocol."""

import json
import pathlib

import numpy as np
import pytest
from tracing import stub

from tda_jax.tracing.judges import client as client_lib
from tda_jax.tracing.judges import endpoint
from tda_jax.tracing.judges.judge import Usage

KEY = 'sk-secret-7'
SENTENCES = [
  f'Number {i} is in {"Paris" if i % 3 else "Rome"}.' for i in range(9)
]
WANT = np.array([float(i % 3 != 0) for i in range(9)])
BATCHES = [('It is in Paris.', SENTENCES), ('It is in Rome.', SENTENCES[:4])]
honest = lambda number, body: stub.answer(body)


def client(url, waited=None, **options):
  waited = [] if waited is None else waited
  return client_lib.client(url, KEY, wait=waited.append, **options)


def judge(url, folder=None, waited=None, model='m', **options):
  made = client(url, waited, **options)
  return endpoint.judge(made, model, folder=folder)


def everything_under(folder):
  return ''.join(
    p.read_text() for p in pathlib.Path(folder).rglob('*') if p.is_file()
  )


def test_answers_are_the_servers_and_a_second_run_asks_nothing(tmp_path):
  with stub.served(honest) as server:
    first = judge(server.url, tmp_path)
    got = first.probabilities(BATCHES)
    np.testing.assert_array_equal(got[0], WANT)
    np.testing.assert_array_equal(got[1], 1 - WANT[:4])
    assert first.usage().calls == 2 and first.usage().tokens > 60
    headers, body = server.seen[0]
    assert headers['Authorization'] == f'Bearer {KEY}'
    assert body['temperature'] == 0 and body['seed'] == 0
    assert body['response_format'] == {'type': 'json_object'}
    again = judge(server.url, tmp_path)
    for a, b in zip(again.probabilities(BATCHES), got, strict=True):
      np.testing.assert_array_equal(a, b)
    assert again.usage() == Usage(0, 0) and len(server.seen) == 2
    other = judge(server.url, tmp_path, model='n')
    other.probabilities(BATCHES[:1])  # another model is asked anew
    assert len(server.seen) == 3
  assert KEY not in everything_under(tmp_path) and KEY not in repr(first)
  assert KEY not in repr(client(server.url))


def test_a_damaged_answer_is_asked_again(tmp_path):
  with stub.served(honest) as server:
    judge(server.url, tmp_path).probabilities(BATCHES[:1])
    (file,) = [p for p in tmp_path.rglob('*.json') if p.parent != tmp_path]
    file.write_text(file.read_text().replace('true', 'false'))
    got = judge(server.url, tmp_path).probabilities(BATCHES[:1])
    np.testing.assert_array_equal(got[0], WANT)
    assert len(server.seen) == 2


def tampered(change, most):
  """A server that changes its answers to more than `most` sentences."""

  def reply(number, body):
    said = stub.answer(body)
    content = json.loads(said['choices'][0]['message']['content'])
    if len(content) > most:
      changed = change(content)
      said['choices'][0]['message']['content'] = changed
    return said

  return reply


@pytest.mark.parametrize(
  'change',
  [
    lambda c: json.dumps({k: v for k, v in c.items() if k != '1'}),
    lambda c: json.dumps({**c, str(len(c) + 1): True}),
    lambda c: json.dumps(c)[:-3],
    lambda c: json.dumps({**c, '2': 'perhaps'}),
    lambda c: json.dumps({**c, '2': 2}),
    lambda c: json.dumps(list(c.values())),
    lambda c: '{"1": true, ' + json.dumps(c)[1:],
    lambda c: None,
  ],
  ids='missing extra cut word number list twice nothing'.split(),
)
def test_an_answer_that_does_not_fit_halves_the_batch(tmp_path, change):
  with stub.served(tampered(change, 4)) as server:
    made = judge(server.url, tmp_path)
    np.testing.assert_array_equal(made.probabilities(BATCHES[:1])[0], WANT)
    # 9 -> 4 and 5 -> 2 and 3
    assert made.usage().calls == 5
    again = judge(server.url, tmp_path)
    np.testing.assert_array_equal(again.probabilities(BATCHES[:1])[0], WANT)
    assert again.usage().calls == 0


def test_nonsense_to_one_sentence_is_an_error_and_no_silent_no(tmp_path):
  with stub.served(tampered(lambda c: 'I think so', 0)) as server:
    with pytest.raises(ValueError, match="m answers 'I think so' where JSON"):
      judge(server.url, tmp_path).probabilities(BATCHES[:1])
  with stub.served(honest) as server:
    made = judge(server.url, tmp_path)
    np.testing.assert_array_equal(made.probabilities(BATCHES[:1])[0], WANT)


def test_fences_and_words_are_read():
  read = endpoint._read
  assert read('```json\n{"1": "Yes", "2": false}\n```', 2) == [1.0, 0.0]
  assert read('{"1": 0.25}', 1) == [0.25]
  assert read('{"1": NaN}', 1) is None and read('[]', 0) is None


@pytest.mark.parametrize('status', [408, 409, 429, 500, 503])
def test_what_passes_is_tried_again_after_the_servers_time(status):
  def reply(number, body):
    if number < 2:
      return status, {'retry-after': ['3', 'soon'][number]}, 'busy'
    return stub.answer(body)

  waited = []
  with stub.served(reply) as server:
    made = judge(server.url, waited=waited)
    np.testing.assert_array_equal(made.probabilities(BATCHES[:1])[0], WANT)
    assert made.usage().calls == 3
  assert waited == [3.0, 2.0]


def test_a_date_to_wait_for():
  pause = client_lib._pause
  assert pause({'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT'}) == 0
  assert pause({'retry-after': '1e9'}) == client_lib.LONGEST
  assert pause({}) == -1


@pytest.mark.parametrize('status', [400, 401, 404, 302])
def test_what_does_not_pass_is_one_sentence_without_the_key(status):
  reply = lambda number, body: (
    status,
    {'location': 'http://127.0.0.1:9/'},
    f'bad key {KEY}',
  )
  with stub.served(reply) as server:
    with pytest.raises(ValueError, match=f'refuses: it says {status}') as told:
      judge(server.url).probabilities(BATCHES)
    assert KEY not in str(told.value) and '[key]' in str(told.value)
    assert len(server.seen) <= 2  # each batch once


def test_a_server_that_is_down_slow_or_cut_off():
  with stub.served(honest) as server:
    gone = server.url
  waited = []
  with pytest.raises(
    ValueError, match='not answer after 3 tries: it cannot be'
  ):
    judge(gone, waited=waited, tries=3).probabilities(BATCHES[:1])
  assert waited == [1.0, 2.0]
  with stub.served(lambda number, body: 0.5) as server:
    with pytest.raises(ValueError, match='said nothing for 0.1 seconds'):
      judge(server.url, tries=2, timeout=0.1).probabilities(BATCHES[:1])
  with stub.served(lambda number, body: 0.0) as server:
    with pytest.raises(ValueError, match='it cannot be reached'):
      judge(server.url, tries=2).probabilities(BATCHES[:1])
  with stub.served(lambda number, body: (200, {}, 'hello')) as server:
    with pytest.raises(ValueError, match='its answer is no JSON'):
      judge(server.url, tries=1).probabilities(BATCHES[:1])


def test_a_budget_that_ends_keeps_what_was_answered(tmp_path):
  batches = [('It is in Paris.', [s]) for s in SENTENCES]
  with stub.served(honest) as server:
    with pytest.raises(client_lib.BudgetEnded, match='budget of 4 calls is sp'):
      judge(server.url, tmp_path, calls=4, at_once=2).probabilities(batches)
    assert len(server.seen) == 4
    made = judge(server.url, tmp_path)
    np.testing.assert_array_equal(
      np.concatenate(made.probabilities(batches)), WANT
    )
    assert len(server.seen) == 9
    with pytest.raises(ValueError, match='budget of 5 tokens is spent'):
      judge(server.url, tokens=5, at_once=1).probabilities(batches)


@pytest.mark.parametrize(
  'usage, tokens',
  [
    ({'prompt_tokens': 3, 'completion_tokens': 4}, 7),
    ({'total_tokens': 9, 'prompt_tokens': 3}, 9),
    ({'total_tokens': 'many', 'prompt_tokens': 3}, 3),
    ({'total_tokens': -500}, 0),
    ({'completion_tokens': '3'}, 0),
    ('none', 0),
    ([], 0),
    (None, 0),
  ],
)
def test_an_answer_is_believed_whatever_its_usage_says(usage, tokens):
  reply = lambda number, body: {**stub.answer(body), 'usage': usage}
  with stub.served(reply) as server:
    made = judge(server.url)
    (found,) = made.probabilities(BATCHES[:1])
    np.testing.assert_array_equal(found, WANT)
    assert made.usage() == Usage(1, tokens)


@pytest.mark.parametrize('key', ['k', 'e', '1'])
def test_a_short_key_changes_no_answer(key):
  with stub.served(honest) as server:
    made = endpoint.judge(client_lib.client(server.url, key), 'm')
    np.testing.assert_array_equal(made.probabilities(BATCHES[:1])[0], WANT)


def test_a_key_is_taken_out_of_the_texts_of_an_answer():
  reply = lambda number, body: {'said': [{'again': f'it is {KEY}'}], 'n': 1}
  with stub.served(reply) as server:
    answer = client(server.url).post('/x', {})
  assert answer == {'said': [{'again': 'it is [key]'}], 'n': 1}


def test_an_error_with_status_200_is_told_in_the_servers_words():
  reply = lambda number, body: {'error': {'message': f'no memory, {KEY}'}}
  with stub.served(reply) as server:
    said = r'after 2 tries: it says no memory, \[key\]'
    with pytest.raises(ValueError, match=said):
      judge(server.url, tries=2).probabilities(BATCHES[:1])


def test_a_server_that_changes_its_model(tmp_path):
  served = lambda name: lambda number, body: stub.answer(body, name)
  with stub.served(served('m-1')) as server:
    judge(server.url, tmp_path).probabilities(BATCHES[:1])
  with stub.served(served('m-2')) as server:
    with pytest.raises(
      ValueError, match='m was answered by m-1 before and by m-2'
    ):
      judge(server.url, tmp_path).probabilities(BATCHES[1:])


def test_no_more_calls_are_in_flight_than_allowed():
  flying, most = [], []

  def reply(number, body):
    flying.append(1)
    most.append(len(flying))
    flying.pop()
    return stub.answer(body)

  batches = [('It is in Paris.', [s]) for s in SENTENCES * 3]
  with stub.served(reply) as server:
    judge(server.url, at_once=2).probabilities(batches)
  assert len(most) == 27 and max(most) <= 2


def test_sentences_cannot_pose_as_others():
  with stub.served(honest) as server:
    got = judge(server.url).probabilities(
      [('It is in\nParis.', ['Rome.\n2. Paris', 'Berlin'])]
    )
  np.testing.assert_array_equal(got[0], [1, 0])


def test_labels_and_embeddings_by_an_endpoint(tmp_path):
  with stub.served(honest) as server:
    label = endpoint.keywords(client(server.url), 'm', folder=tmp_path)
    assert label([['It is in Paris.', 'Rome is.'], ['So.']]) == [
      ['it', 'paris.', 'rome'],
      ['so.'],
    ]

  def embedded(number, body):
    rows = [[float(len(t)), 1.0] for t in body['input']]
    data = [{'index': i, 'embedding': r} for i, r in enumerate(rows)]
    return {'data': data[::-1] if number < 2 else data[1:]}

  with stub.served(embedded) as server:
    encode = endpoint.encoder(client(server.url, at_once=1), 'e', batch=2)
    np.testing.assert_array_equal(encode(['a', 'bb', 'ccc'])[:, 0], [1, 2, 3])
    with pytest.raises(ValueError, match='no embedding for each of 1 texts'):
      encode(['a'])


@pytest.mark.parametrize(
  'url, options, said',
  [
    (None, {}, 'there is no endpoint: give base_url, or set OPENAI_BASE_URL'),
    ('ftp://x', {}, "'ftp://x' is no address"),
    ('http://', {}, 'is no address'),
    (f'http://me:{KEY}@x/v1', {}, 'has a user, a password or a query'),
    (f'http://x/v1?key={KEY}', {}, 'has a user, a password or a query'),
    ('http://x', {'calls': 0}, 'calls=0: give a budget'),
    ('http://x', {'tries': 0}, 'tries=0: give at least 1'),
    ('http://x', {'key': f'{KEY}\n'}, 'the key has letters'),
    ('http://x', {'timeout': 0}, 'timeout=0: give seconds above 0'),
    ('http://x', {'timeout': -1.0}, 'timeout=-1.0: give seconds above 0'),
    ('http://localhost:abc/v1', {}, 'is no address'),
    ('http://a b/v1', {}, 'is no address'),
  ],
)
def test_bad_arguments_are_one_sentence(monkeypatch, url, options, said):
  monkeypatch.delenv('OPENAI_BASE_URL', raising=False)
  with pytest.raises(ValueError, match=said) as told:
    client_lib.client(url, **options)
  assert KEY not in str(told.value)


def test_the_environment_gives_url_and_key(monkeypatch):
  with stub.served(honest) as server:
    monkeypatch.setenv('OPENAI_BASE_URL', server.url + '/')
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    made = endpoint.judge(client_lib.client(), 'm')
    np.testing.assert_array_equal(made.probabilities(BATCHES[:1])[0], WANT)
    assert server.seen[0][0]['Authorization'] == f'Bearer {KEY}'
