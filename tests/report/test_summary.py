"""A page of any experiment."""

import pytest
from test_page import CLAIMS, ROWS, read

from tda_jax.report import plots, summary


def test_whole_page(tmp_path):
  plot = plots.ensemble(
    [plots.Curve('a', [1, 2], [0.5, 0.6])], tmp_path / 'lds_by_size.png'
  )
  path = tmp_path / 'page.html'
  found = summary.write(
    path,
    title='It & <b>',
    about='What it\nis.\n\nWhat it <i> tells.',
    rows=ROWS,
    claims=CLAIMS,
    plots=[plot],
  )
  assert found == str(path)
  content, reader, text = read(path)
  assert '<p>What it is.</p>' in content
  assert '<p>What it &lt;i&gt; tells.</p>' in content and '<b>' not in content
  for words in ('ASTRA <auto>', '[0.590, 0.630]', 'A > B', 'lds by size'):
    assert words in text, words
  assert {'command', 'commit', 'jax'} <= set(text.split())
  images = [attrs['src'] for tag, attrs in reader.tags if tag == 'img']
  assert len(images) == 1 and images[0].startswith('data:image/png')
  with pytest.raises(ValueError, match=r'gone.png is not there'):
    summary.write(path, title='t', about='', plots=[tmp_path / 'gone.png'])


def test_methods_that_share_no_metric_have_their_own_tables(tmp_path):
  path = tmp_path / 'page.html'
  names = 'ax aw pu by cx cy dw'.split()
  rows = [{'method': m, 'metric': of, 'value': 1.0} for m, of in names]
  summary.write(path, title='t', about='', rows=rows)
  content, _, _ = read(path)
  tables = [part.split('</table>')[0] for part in content.split('<table>')[1:]]
  assert len(tables) == 2
  of = [[n for n in 'abcdpwxyu' if f'>{n}</th>' in one] for one in tables]
  assert of == [list('abcdwxy'), list('pu')]
