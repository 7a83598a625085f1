"""Plots: what is drawn, that no label is clipped or covers another."""

import numpy as np
import pytest
from matplotlib import image
from matplotlib.text import Annotation, Text

from tda_jax.report import plots

X = [1e-4, 1e-3, 1e-2]
CURVES = [
  plots.Curve('exact', X, [0.5, 0.6, 0.55], [0.48, 0.58, 0.5], [0.6] * 3),
  plots.Curve('CG', X, [0.5, 0.599, 0.551]),
  plots.Curve('EKFAC with a rather long name', X, [0.4, 0.5, 0.549]),
]
BARS = [
  plots.Bar('exact', (0.61, 0.59, 0.63), (0.72, 0.70, 0.74)),
  plots.Bar('Grad-Dot', (0.34, 0.32, 0.36), None),
  plots.Bar('worse than chance', (-0.1, -0.15, -0.05), (-0.2, -0.3, -0.1)),
]
CEILING = (0.889, 0.878, 0.899)


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  figures, save = [], plots._save

  def spy(figure, path):
    figures.append(figure)
    return save(figure, path)

  monkeypatch.setattr(plots, '_save', spy)
  return figures


def texts(figure):
  axes = figure.axes[0]
  ours = [t for t in axes.texts if t.get_text()]
  return ours, [Text.get_window_extent(t) for t in ours]  # without the arrows


def make(name, path):
  if name == 'bars':
    return plots.bars(BARS, path, ceiling=CEILING, members=10)
  if name == 'residuals':
    return plots.residuals(CURVES, path)
  if name == 'damping':
    return plots.damping(CURVES, path, literal=5e-3, ceiling=CEILING)
  return plots.ensemble(
    [c._replace(x=[1, 2, 10]) for c in CURVES], path, ceiling=CEILING
  )


@pytest.mark.parametrize('name', ['bars', 'residuals', 'damping', 'ensemble'])
def test_plots_are_readable_png(name, tmp_path, drawn):
  path = tmp_path / f'{name}.png'
  assert make(name, path) == str(path)
  pixels = image.imread(path)
  assert 1000 < pixels.shape[1] < 2000
  border = np.concatenate([pixels[:3], pixels[-3:]]).reshape(-1, 4)
  sides = np.concatenate([pixels[:, :3], pixels[:, -3:]]).reshape(-1, 4)
  assert (border == 1).all() and (sides == 1).all()  # nothing touches the edge
  labels, boxes = texts(drawn[0])
  assert len(labels) >= 3
  for i, a in enumerate(boxes):
    for b in boxes[:i]:
      assert not a.overlaps(b)
  assert min(t.get_fontsize() for t in labels) >= 9


def test_bars_show_values_intervals_and_ceiling(tmp_path, drawn):
  make('bars', tmp_path / 'a.png')
  axes = drawn[0].axes[0]
  widths = sorted(round(bar.get_width(), 3) for bar in axes.patches[:5])
  assert widths == [-0.2, -0.1, 0.34, 0.61, 0.72]
  ends = {tuple(line.get_xdata()) for line in axes.get_lines()}
  assert {(0.59, 0.63), (0.70, 0.74), (-0.3, -0.1)} <= ends
  assert any(list(e) == [0.889, 0.889] for e in ends)
  named = {t.get_text() for t in axes.texts}
  assert named == {'0.610', '0.720', '0.340', '-0.100', '-0.200'}
  legend = {t.get_text() for t in axes.get_legend().get_texts()}
  assert legend == {'single model', 'ensemble of 10', 'noise ceiling 0.889'}


def test_bars_of_single_models_alone_stand_at_their_names(tmp_path, drawn):
  alone = [plots.Bar('ekfac', (0.6, 0.5, 0.7), None)]
  plots.bars(alone, tmp_path / 'a.png')
  axes = drawn[0].axes[0]
  assert axes.get_legend() is None
  (bar,) = axes.patches
  assert bar.get_y() + bar.get_height() / 2 == pytest.approx(0)


def test_scales_marks_and_rings(tmp_path, drawn):
  make('residuals', tmp_path / 'a.png')
  make('damping', tmp_path / 'b.png')
  make('ensemble', tmp_path / 'c.png')
  residuals, damping, ensemble = (figure.axes[0] for figure in drawn)
  assert residuals.get_yscale() == 'log' and damping.get_xscale() == 'log'
  named = [t.get_text() for t in damping.texts if isinstance(t, Annotation)]
  assert 'paper: 0.005' in named and 'noise ceiling 0.889' in named
  rings = [x for x in damping.get_lines() if x.get_markerfacecolor() == 'none']
  assert [r.get_xdata()[0] for r in rings] == [1e-3, 1e-3, 1e-2]
  ticks = [t.get_text() for t in ensemble.get_xticklabels()]
  assert ticks == ['1', '2', '10']


def test_unfinished_and_single_points_are_drawn(tmp_path, drawn):
  gone = plots.Curve('diverged', X, [np.nan] * 3)
  part = plots.Curve('diverges', [0, 10, 20], [1.0, 0.1, np.inf])
  once = plots.Curve('exact', [0], [1e-7])
  plots.residuals([gone, part, once], tmp_path / 'a.png')
  plots.damping([gone, CURVES[0]], tmp_path / 'b.png')
  plots.sweep(CURVES, tmp_path / 'c.png', 'steps', log=False)
  named = [t.get_text() for t in drawn[0].axes[0].texts]
  assert named == ['diverges', 'exact']


def test_nothing_to_show_is_an_error(tmp_path):
  for plot in (plots.bars, plots.residuals, plots.damping, plots.ensemble):
    with pytest.raises(ValueError, match='nothing to show'):
      plot([], tmp_path / 'a.png')


def test_labels_move_as_little_as_needed():
  spread = plots.spread(np.array([5.0, 50, 5, 6]), 10, 0, 100)
  np.testing.assert_allclose(np.sort(spread), [0, 10, 20, 50])
  assert spread[0] < spread[2] < spread[3] < spread[1]
  far = np.array([80.0, 20, 50])
  np.testing.assert_allclose(plots.spread(far, 10, 0, 100), far)
  full = np.sort(plots.spread(np.full(5, 99.0), 50, 0, 100))
  np.testing.assert_allclose(full, [0, 25, 50, 75, 100])


def test_a_map_has_its_numbers_and_says_where_better_is(tmp_path, drawn):
  values = np.array([[0.0, 0.5], [1.0, 0.25]])
  path = tmp_path / 'map.png'
  plots.cells(values, ['a', 'b'], ['here', 'there'], path, title='AUC')
  (axes,) = drawn[0].axes
  said = {t.get_position(): t.get_text() for t in axes.texts}
  assert said == {
    (0, 0): '0.00',
    (1, 0): '0.50',
    (0, 1): '1.00',
    (1, 1): '0.25',
  }
  (shown,) = axes.images
  red, _, blue = np.moveaxis(shown.cmap(shown.norm(values))[..., :3], -1, 0)
  assert red[0, 0] > blue[0, 0] and blue[1, 0] > red[1, 0]
  np.testing.assert_allclose([red[0, 1], blue[0, 1]], 1, atol=0.01)
  with pytest.raises(ValueError, match=r'give \(2, 1\)'):
    plots.cells(values, ['a', 'b'], ['here'], path, title='AUC')


def test_bars_of_one_kind_say_their_unit_and_need_no_legend(tmp_path, drawn):
  plots.bars(BARS[1:2], tmp_path / 'f1.png', unit='F1')
  (axes,) = drawn[0].axes
  assert axes.get_xlabel() == 'F1' and axes.get_legend() is None
