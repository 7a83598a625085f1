"""Random subsets, and the rows that they lack."""

import numpy as np
import pytest

from tda_jax.data import subsets


def test_subsets_are_of_their_seed_and_number_alone():
  found = subsets.half_subsets(0, 11, 6, 0.4)
  assert found.shape == (6, 4) and (np.diff(found) > 0).all()
  np.testing.assert_array_equal(subsets.half_subsets(0, 11, 3, 0.4), found[:3])
  assert (subsets.half_subsets(1, 11, 6, 0.4) != found).any()


def test_complement_is_what_each_subset_lacks():
  given = np.array([[3, 0], [1, 4], [0, 1]])
  wanted = [[1, 2, 4], [0, 2, 3], [2, 3, 4]]
  assert subsets.complement(given, 5).tolist() == wanted
  assert subsets.complement(np.array(wanted), 5).tolist() == [
    sorted(line) for line in given.tolist()
  ]
  assert subsets.complement(np.zeros((2, 0)), 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
  'given', [[[0, 5]], [[-1, 2]], [[1, 1, 2]], [[0.0, 1.0]], [0, 1], 3]
)
def test_what_are_no_sets_of_rows_is_refused(given):
  with pytest.raises(ValueError, match='kept (must hold|has shape)'):
    subsets.complement(given, 5, 'kept')
