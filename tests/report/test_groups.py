"""Points by group: what is drawn, and where."""

import numpy as np
import pytest
from matplotlib import image
from test_plots import CEILING

from tda_jax.report import groups, plots

NAMES = ['s0_target', 's1_same', 's5_init']
SERIES = {
  'ekfac': [(0.6, 0.5, 0.7), (0.4, 0.3, 0.5), (0.2, 0.1, 0.3)],
  'tracin': [(0.5, 0.4, 0.6), (0.3, 0.2, 0.4), None],
}


@pytest.fixture
def drawn(monkeypatch):
  figures, save = [], plots._save
  monkeypatch.setattr(
    plots, '_save', lambda f, path: figures.append(f) or save(f, path)
  )
  return figures


def test_every_estimate_is_drawn_in_its_group(tmp_path, drawn):
  path = groups.groups(
      NAMES, SERIES, tmp_path / 'a.png', 'LDS', ceiling=CEILING,
      floor=(0.0, -0.05, 0.05), title='Proxies',
  )  # fmt: skip
  assert 1000 < image.imread(path).shape[1] < 2000
  axes = drawn[0].axes[0]
  lines = {line.get_label(): line for line in axes.lines}
  for name, spans in SERIES.items():
    shown = [(j, span) for j, span in enumerate(spans) if span is not None]
    np.testing.assert_allclose(
      lines[name].get_xdata(), [span[0] for _, span in shown]
    )
    places = np.asarray(lines[name].get_ydata())
    np.testing.assert_array_equal(places.round(), [j for j, _ in shown])
  ends = [
    segment[:, 0].tolist()
    for collection in axes.collections
    for segment in collection.get_segments()
  ]
  spans = [s for spans in SERIES.values() for s in spans if s is not None]
  assert sorted(ends) == sorted([low, high] for _, low, high in spans)
  assert [t.get_text() for t in axes.get_yticklabels()] == NAMES
  assert axes.yaxis_inverted()
  labels = axes.get_legend_handles_labels()[1]
  assert {'random', 'noise ceiling 0.889', *SERIES} == {*labels}


def test_nothing_to_show(tmp_path):
  with pytest.raises(ValueError, match='nothing to show'):
    groups.groups([], {}, tmp_path / 'a.png', 'LDS')
