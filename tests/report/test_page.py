"""The page: complete, escaped, and nothing in it leaves the file."""

import base64
import html.parser
import io
import re

import browser
import numpy as np
import pytest
from matplotlib import image
from sklearn import datasets

from tda_jax.report import cards, page, plots

ROWS = [
    {'method': 'ASTRA <auto>', 'metric': 'LDS', 'value': 0.61, 'low': 0.59,
     'high': 0.63, 'n': 200, 'seconds': 2.5, 'peak_mb': None},
    {'method': 'EKFAC', 'metric': 'LDS', 'value': 0.54, 'low': 0.52,
     'high': 0.56, 'n': 200, 'seconds': None, 'peak_mb': None},
    {'method': 'noise ceiling', 'metric': 'LDS', 'value': 0.889, 'low': None,
     'high': None, 'n': 200, 'seconds': None, 'peak_mb': None},
]  # fmt: skip
CLAIMS = [
    {'claim': 'A > B', 'source': 'paper', 'expected': '> 0',
     'observed': 0.07, 'holds': True},
    {'claim': 'B > A', 'source': 'ours', 'expected': '> 0',
     'observed': -0.07, 'holds': False},
]  # fmt: skip


class Reader(html.parser.HTMLParser):
  """Tags, their attributes, and the text, checked for balance."""

  void = ('meta', 'img', 'br', 'wbr', 'link', 'input')

  def __init__(self):
    super().__init__()
    self.tags, self.open, self.text = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.void:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def read(path):
  reader = Reader()
  content = path.read_text(encoding='utf-8')
  reader.feed(content)
  assert not reader.open
  return content, reader, re.sub(r'\s+', ' ', ' '.join(reader.text))


def digits(count=3):
  data = datasets.load_digits()
  train, shown = data.images[:200], data.images[200:220]
  rows = data.images[:220].reshape(220, -1) - data.images[:200].mean()
  scores = rows[:200] @ rows[200:].T * 1e-8
  scores -= scores.mean(axis=0)
  predicted = data.target[200:220].copy()
  predicted[1] = (predicted[1] + 1) % 10
  found = cards.queries(
    cards.Scored(scores),
    cards.Looks(train, data.target[:200], shown, data.target[200:220]),
    cards.Answers(predicted),
    [1, 4],
    count=count,
  )
  return found, scores, data


def test_evidence_is_the_strongest_of_each_sign():
  found, scores, data = digits()
  assert [query.example.row for query in found] == [1, 4]
  for query in found:
    column = scores[:, query.example.row]
    ups = [one.score for one in query.supporters]
    downs = [one.score for one in query.opponents]
    assert ups == sorted(column)[::-1][:3] and downs == sorted(column)[:3]
    assert min(ups) > 0 > max(downs)
    one = query.supporters[0].example
    assert one.label == str(data.target[one.row])
    np.testing.assert_allclose(one.image, data.images[one.row] / 16)
  looks = cards.Looks(np.ones((3, 2)), [0.5, 1, 2], np.ones((1, 2)), [1.25],
                      columns=['a', 'b'])  # fmt: skip
  scored = cards.Scored(np.array([[1.0], [0.0], [-1.0]]))
  few = cards.queries(scored, looks, cards.Answers([1.5]), [0])[0]
  assert len(few.supporters) == len(few.opponents) == 1
  assert few.opponents[0].example.row == 2 and few.example.label == '1.25'
  assert few.example.cells == {'a': 1.0, 'b': 1.0}


def test_whole_page(tmp_path):
  plot = plots.ensemble(
    [plots.Curve('a', [1, 2], [0.5, 0.6])], tmp_path / 'plot.png'
  )
  path = tmp_path / 'page.html'
  page.write(
      path,
      title='Digits & <script>alert(1)</script>',
      facts={'command': ['python', '-m', 'x'], 'commit': 'abc', 'devices':
             ['cpu'] * 8, 'edited': False, 'config': {'seed': 7}},
      rows=ROWS, claims=CLAIMS,
      plots=[page.Plot(plot, 'LDS "by" size', 'LDS grows from .5 to .6')],
      coverage=[('hidden/kernel', 'dense', 8320, 0.75)],
      queries=digits()[0], method='ASTRA <auto>',
  )  # fmt: skip
  content, reader, text = read(path)
  assert '<script' not in content
  assert '&lt;script&gt;' in content
  for words in (
      'python -m x', '8 × cpu', 'abc', '"seed": 7', 'ASTRA <auto>', '0.610',
      '[0.590, 0.630]', '0.889', '2.5', 'A > B', 'hidden/kernel', '8,320',
      '75.0%', 'Query 1', 'Query 4', 'Supporters', 'Opponents', 'units of 10',
  ):  # fmt: skip
    assert words in text, words
  images = [attrs for tag, attrs in reader.tags if tag == 'img']
  assert len(images) == 1 + 2 * (1 + 3 + 3)
  assert all(len(attrs['alt']) > 8 for attrs in images)
  for attrs in images:
    kind, coded = attrs['src'].split(',')
    assert kind == 'data:image/png;base64'
    assert image.imread(io.BytesIO(base64.b64decode(coded))).ndim == 3


def test_scores_of_an_ensemble_show_how_sure_they_are(tmp_path):
  scores = np.array([[3e-4, 0.0], [1e-4, 1e-4], [-2e-4, 0.0]])
  error = np.full((3, 2), 5e-5)
  sure = np.array([[True, False], [False, False], [False, False]])
  for rows in (
    np.ones((3, 2)),
    np.random.default_rng(0).uniform(size=(3, 4, 4)),
  ):
    looks = cards.Looks(rows, [0, 1, 2], rows[:2], [0, 1])
    scored = cards.Scored(scores, error, sure)
    found = cards.queries(scored, looks, cards.Answers(), [0])
    path = tmp_path / 'page.html'
    page.write(path, title='t', facts={}, queries=found)
    text = re.sub(r'\s+', ' ', read(path)[2])
    assert '+3.00 ± 0.5 *' in text and '+1.00 ± 0.5' in text
    assert '−2.00 ± 0.5' in text and '* marks rows that some' in text
    assert text.count('±') == 4
  with pytest.raises(ValueError, match=r'shape \(2, 2\) do not fit'):
    cards.queries(cards.Scored(scores, error[:2]), looks, cards.Answers(), [0])
  page.write(path, title='t', facts={}, queries=digits()[0])
  assert '±' not in path.read_text()


def test_nothing_leaves_the_file(tmp_path):
  path = tmp_path / 'page.html'
  page.write(path, title='t', facts={'a': 1}, rows=ROWS, queries=digits()[0])
  content, reader, _ = read(path)
  for tag, attrs in reader.tags:
    assert tag not in ('script', 'link', 'iframe', 'object')
    for name in ('src', 'href'):
      assert attrs.get(name, 'data:').startswith('data:')
  assert not re.search(r'https?://|@import|url\(', content)
  assert [p.name for p in tmp_path.iterdir()] == ['page.html']


def test_verdicts_and_the_best(tmp_path):
  path = tmp_path / 'page.html'
  page.write(path, title='t', facts={}, rows=ROWS, claims=CLAIMS)
  content = path.read_text()
  assert re.search(r'class="holds">holds</td><td>A &gt; B', content)
  assert re.search(r'class="fails">does not</td><td>B &gt; A', content)
  best = re.findall(r'<td class="n best">([^<]*)', content)
  assert best == ['0.610']  # the ceiling is no method
  assert 'peak MB' not in content and 'Plots' not in content


def test_table_rows_and_their_columns(tmp_path):
  rng = np.random.default_rng(0)
  train, shown = rng.normal(size=(30, 14)), rng.normal(size=(2, 14))
  train[:, 0] = 10402.0
  looks = cards.Looks(
      train, np.arange(30) % 3, shown, [0, 2], ['x', 'y', '<z>'],
      [f'c{i}' for i in range(14)],
  )  # fmt: skip
  found = cards.queries(
    cards.Scored(train @ shown.T), looks, cards.Answers([0, 1]), [1], count=4
  )
  path = tmp_path / 'page.html'
  page.write(path, title='t', facts={}, queries=found)
  content, reader, text = read(path)
  assert 'label <z> predicted y' in text and '<z>' not in content
  assert 'c11' in text and 'c12' not in text
  assert 'The first 12 of 14 columns' in text and '10402' in text
  rows = [attrs.get('class') for tag, attrs in reader.tags if tag == 'tr']
  count = len(found[0].supporters), len(found[0].opponents)
  assert rows == [
      None, 'query', 'group supporter', *['supporter'] * count[0],
      'group opponent', *['opponent'] * count[1],
  ]  # fmt: skip


@pytest.mark.parametrize('images', [True, False])
def test_a_wrong_prediction_has_what_supports_it(tmp_path, images):
  shape = (5, 4, 4) if images else (5, 3)
  rows = np.random.default_rng(0).uniform(size=shape)
  names = ['cat', '<dog>', 'a & b']
  looks = cards.Looks(rows, [0, 1, 2, 1, 1], rows[:3], [0, 1, 2], names)
  chances = np.array([[0.2, 0.7, 0.1], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3]])
  answers = cards.Answers(
    chances.argmax(1), chances.argmax(1) != [0, 1, 2], chances
  )
  scores = np.tile([[1.0], [0.5], [-0.5], [-1.0], [0.0]], (1, 3))
  against = np.array([[-1.0, 3], [0, 2], [0, 1], [2, 0], [1, 0]])
  found = cards.queries(
    cards.Scored(scores), looks, answers, [2, 0, 1], count=2,
    rivals=cards.Scored(against),
  )  # fmt: skip
  of = lambda side: [one.example.row for one in side]
  assert [of(q.rivals or ()) for q in found] == [[3, 4], [0, 1], []]
  assert [of(q.supporters) for q in found] == [[0, 1]] * 3
  assert [q.wrong for q in found] == [True, True, False]
  assert found[1].chances == [('<dog>', 0.7), ('cat', 0.2), ('a & b', 0.1)]
  path = tmp_path / 'page.html'
  told = {'model': 'an <mlp>', 'measure': 'log p, in nats'}
  page.write(path, title='t', facts={}, queries=found, context=told)
  content, _, text = read(path)
  for words in (
      'Supports its label: cat', 'Supports the prediction: <dog>',
      'predicted <dog>: wrong', 'predicted <dog>: right', '70.0%',
      'an <mlp>', 'in nats', 'Wrong predictions come first', 'asked about the',
  ):  # fmt: skip
    assert words in text, words
  assert text.count('Opponents') == 1  # of the right one
  assert '<dog>' not in content and 'a & b' not in content
  with pytest.raises(
    ValueError, match=r'shape \(5, 1\) do not fit 5 rows and 2'
  ):
    cards.queries(cards.Scored(scores), looks, answers, [0, 2],
                  rivals=cards.Scored(against[:, :1]))  # fmt: skip


def test_numbers_show_how_far_off_they_are(tmp_path):
  looks = cards.Looks(np.eye(3), [1.0, 2.0, 3.5], np.eye(3)[:2], [2.0, 40.0])
  answers = cards.Answers(np.array([2.5, 30.0]), error=np.array([0.5, 10.0]))
  found = cards.queries(cards.Scored(np.eye(3)[:, :2]), looks, answers, [1, 0])
  path = tmp_path / 'page.html'
  page.write(path, title='t', facts={}, queries=found)
  text = read(path)[2]
  assert 'target 40 , predicted 30 : off by 10' in text
  assert 'The largest errors come first' in text and 'wrong' not in text


def test_the_likeliest_classes_and_the_labels_own():
  looks = cards.Looks(np.ones((1, 2)), [0], np.ones((2, 2)), [4, 1])
  chances = np.array([[0.1, 0.4, 0.25, 0.2, 0.05]] * 2)
  answers = cards.Answers(np.ones(2, int), np.array([True, False]), chances)
  found = cards.queries(cards.Scored(np.ones((1, 2))), looks, answers, [0, 1])
  assert [name for name, _ in found[0].chances] == ['1', '2', '3', '4']
  assert [name for name, _ in found[1].chances] == ['1', '2', '3']


def test_labels_as_text():
  assert cards.label_text(np.float32(1.25)) == '1.25'
  assert cards.label_text(np.bool_(True)) == '1'
  assert cards.label_text(np.array([1, 0, 1]), ['a', 'b', 'c']) == 'a, c'
  assert cards.label_text(np.zeros(2, int)) == 'none'
  assert cards.label_text(np.array([0.0, 1.0])) == '0, 1'


def test_scores_have_their_sign_and_unit():
  assert page._signed(4.56e-5, -5) == '+4.56'
  assert page._signed(-1.2e-5, -5) == '−1.20'
  assert page._signed(346.2, 0) == '+346'
  example = digits()[0][0].example

  def power(score):
    evidence = cards.Evidence(example, score)
    return page._power([cards.Query(example, '1', [], [evidence])])

  assert [power(s) for s in (-4.6e-5, 0.3, -12.0, 0.0)] == [-5, 0, 0, 0]
  assert page._power([]) == 0


def test_images_keep_their_pixels():
  gray = np.array([[0.0, 1.0], [0.5, 0.25]])
  for values in (gray, gray[..., None], np.repeat(gray[..., None], 3, axis=2)):
    coded = page.png(values).split(',')[1]
    found = image.imread(io.BytesIO(base64.b64decode(coded)))[..., :3]
    np.testing.assert_allclose(found, np.stack([gray] * 3, -1), atol=1 / 255)


def test_bad_input_is_named(tmp_path):
  looks = cards.Looks(np.ones((3, 2)), [0] * 3, np.ones((2, 2)), [0] * 2)
  with pytest.raises(ValueError, match='plot .*gone.png is not there'):
    page.write(tmp_path / 'p.html', title='t', facts={},
               plots=[page.Plot(tmp_path / 'gone.png', 'a', 'b')])  # fmt: skip
  with pytest.raises(ValueError, match=r'shape \(2, 2\) do not fit 3 rows'):
    cards.queries(cards.Scored(np.ones((2, 2))), looks, cards.Answers(), [0])
  few = looks._replace(classes=['a'], query_labels=[0, 1])
  with pytest.raises(ValueError, match='1 classes and labels of 2: name every'):
    cards.queries(cards.Scored(np.ones((3, 2))), few, cards.Answers(), [0])
  with pytest.raises(ValueError, match=r'shape \(4,\) cannot be shown'):
    page.png(np.ones(4))


@pytest.mark.slow
def test_a_browser_shows_it_on_any_screen(tmp_path):
  rng = np.random.default_rng(0)
  for shape in ((9, 4, 4), (9, 20)):
    rows, scores = rng.uniform(size=shape), rng.normal(size=(9, 3))
    looks = cards.Looks(rows, np.arange(9) % 2, rows[:3], [0, 1, 0],
                        ['a long name of a class', 'b'])  # fmt: skip
    chances = np.array([[0.4, 0.6]] * 3)
    answers = cards.Answers(np.ones(3, int), np.array([1, 0, 1], bool), chances)
    found = cards.queries(
      cards.Scored(scores, np.abs(scores)), looks, answers, [0, 2, 1],
      rivals=cards.Scored(scores[:, :2]),
    )  # fmt: skip
    path = tmp_path / 'page.html'
    page.write(path, title='t', facts={'a': 1}, rows=ROWS, queries=found,
               context={'model': 'a model of ' + 'many words ' * 20})  # fmt: skip
    with browser.tab(tmp_path / 'profile') as tab:
      for width in (1280, 400):
        for dark in (False, True):
          browser.shape(tab, width, dark)
          browser.visit(tab, path)
          wide = 'document.documentElement.scrollWidth'
          assert tab.evaluate(wide) <= width
          bar = 'document.querySelector(".bar").getBoundingClientRect().width'
          of = (
            'document.querySelector(".chances").getBoundingClientRect().width'
          )
          assert tab.evaluate(bar) == pytest.approx(
            0.6 * tab.evaluate(of), 0.02
          )
    asked = [
      event['params']['request']['url']
      for event in tab.events
      if event['method'] == 'Network.requestWillBeSent'
    ]
    assert {path.as_uri()} == {u for u in asked if not u.startswith('data:')}
