"""Figures of several panels: they show what they are given."""

import numpy as np
import pytest
from matplotlib import image

from tda_jax.report import panels, plots

RNG = np.random.default_rng(0)


def shape(path):
  return image.imread(path).shape


def test_correlations(tmp_path):
  values = np.corrcoef(RNG.normal(size=(4, 9)))
  some = [panels.Matrix(f'm{i}', values) for i in range(4)]
  names = ['loo', 'influence', 'grad_dot', 'grad_cos']
  path = panels.correlations(some, names, tmp_path / 'c.png', title='t')
  flipped = [panels.Matrix('m', -values)]
  other = panels.correlations(flipped, names, tmp_path / 'd.png')
  height, width, _ = shape(path)
  assert height > 500 and width > shape(other)[1] > 300


def test_lines_keep_a_names_colour(tmp_path):
  line = lambda name: plots.Curve(name, [10, 20], [0.2, 0.3], [0.1, 0.2],
                                  [0.3, 0.4])  # fmt: skip
  curves = {'a': [line('x'), line('y')], 'b': [line('y')]}
  path = panels.lines(curves, tmp_path / 'l.png', 'rows', 'p')
  first, second = np.array_split(image.imread(path)[..., :3], 2, axis=1)
  color = np.array([int(plots.COLORS[1][i : i + 2], 16) for i in (1, 3, 5)])
  for half in (first[: len(first) // 2], second[: len(second) // 2]):
    assert (np.abs(half - color / 255).max(-1) < 0.02).sum() > 50


def test_histograms_and_pairs(tmp_path):
  some = [panels.Histogram(name, RNG.uniform(size=(5, 40))) for name in 'abcd']
  assert shape(panels.histograms(some, tmp_path / 'h.png', 'p'))[0] > 300
  pixels = RNG.uniform(size=(8, 8))
  pairs = [
    panels.Pair(pixels, pixels[..., None], 'row 1: 0', 'query 2: 0', '1 ± .5'),
    panels.Pair(np.stack([pixels] * 3, -1), pixels, 'a', 'b', 'c'),
  ]
  assert shape(panels.pairs(pairs, tmp_path / 'p.png', title='t'))[1] > 400


def test_nothing_to_show(tmp_path):
  with pytest.raises(ValueError, match='has nothing to show'):
    panels.pairs([], tmp_path / 'p.png')
