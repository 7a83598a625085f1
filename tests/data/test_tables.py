import gzip

import numpy as np
import pytest

from tda_jax.data import tables

CSV = 'a,kind,b,y\n1,red,2.5,3\n4,blue,5.5,6\n7,red,8.5,3\n'
NUMBERS = 'a,b,y\n1,2.5,3\n4,5.5,6\n7,8.5,3\n'


def write(folder, text, name='rows.csv'):
  path = folder / name
  path.write_text(text)
  return path


@pytest.mark.parametrize(
  'name, n, features, kind',
  [
    ('digits', 1797, 64, np.int32),
    ('breast_cancer', 569, 30, np.int32),
    ('diabetes', 442, 10, np.float32),
    ('concrete', 1030, 8, np.float32),
  ],
)
def test_packaged_tables(name, n, features, kind):
  rows = getattr(tables, name)()
  assert rows['x'].shape == (n, features) and rows['x'].dtype == np.float32
  assert rows['y'].shape == (n,) and rows['y'].dtype == kind
  assert len(tables.columns(name)) == features


def test_concrete_is_the_uci_table():
  rows = tables.concrete()
  assert tables.columns('concrete')[0] == 'cement'
  np.testing.assert_allclose(rows['x'][0], [540, 0, 0, 162, 2.5, 1040, 676, 28])
  np.testing.assert_allclose(rows['y'][:2], [79.99, 61.89], rtol=1e-6)


def test_columns_of_an_unknown_table():
  with pytest.raises(ValueError, match="unknown table 'iris': use one of"):
    tables.columns('iris')


def test_csv_of_numbers(tmp_path):
  table = tables.read(write(tmp_path, NUMBERS), 'y')
  np.testing.assert_array_equal(table.rows['x'], [[1, 2.5], [4, 5.5], [7, 8.5]])
  np.testing.assert_array_equal(table.rows['y'], [3, 6, 3])
  assert table.rows['y'].dtype == np.float32
  assert table.columns == ('a', 'b') and table.classes == ()


def test_csv_of_numbers_compressed(tmp_path):
  path = tmp_path / 'rows.csv.gz'
  path.write_bytes(gzip.compress(NUMBERS.encode()))
  assert tables.read(path, 'y').rows['x'].shape == (3, 2)


def test_csv_target_anywhere_and_one_hot(tmp_path):
  table = tables.read(write(tmp_path, CSV), 'b', one_hot=True)
  assert table.columns == ('a', 'y', 'kind_blue', 'kind_red')
  np.testing.assert_array_equal(table.rows['x'][1], [4, 6, 1, 0])
  np.testing.assert_array_equal(table.rows['y'], [2.5, 5.5, 8.5])


def test_csv_classes_are_numbered_in_sorted_order(tmp_path):
  path = write(tmp_path, CSV.replace('kind,b', 'label,b'))
  table = tables.read(path, 'label', classification=True)
  np.testing.assert_array_equal(table.rows['y'], [1, 0, 1])
  assert table.rows['y'].dtype == np.int32
  assert table.classes == ('blue', 'red')


def test_csv_number_classes(tmp_path):
  table = tables.read(write(tmp_path, NUMBERS), 'y', classification=True)
  np.testing.assert_array_equal(table.rows['y'], [0, 1, 0])
  assert table.classes == ('3', '6')


@pytest.mark.parametrize(
  'text, options, message',
  [
    (CSV, {}, "column 'kind' of .* is text .*'red'.*: give numbers, or ask"),
    (
      CSV.replace('red', '', 1),
      {'one_hot': True},
      "no value in column 'kind' of 1 rows, the first is row 0",
    ),
    (
      NUMBERS.replace('5.5', ''),
      {},
      "1 rows with NaN or infinity in column 'x', the first is row 1",
    ),
    (
      NUMBERS.replace('6', ''),
      {},
      "1 rows with NaN or infinity in column 'y', the first is row 1",
    ),
    (
      NUMBERS.replace('8.5,3', '8.5,'),
      {'classification': True},
      "no value in column 'y' of 1 rows, the first is row 2",
    ),
    (
      NUMBERS,
      {'target': 'z'},
      r"no column 'z': its columns are \['a', 'b', 'y'",
    ),
    (
      CSV,
      {'target': 'kind'},
      "target 'kind' of .* is text .*: give numbers, or ask for class",
    ),
    ('', {}, 'is not a readable CSV file'),
    ('a,b,y\n', {}, 'is empty: give at least one row'),
  ],
)
def test_csv_refused(tmp_path, text, options, message):
  with pytest.raises(ValueError, match=message):
    tables.read(write(tmp_path, text), **{'target': 'y', **options})


def test_file_absent_or_of_another_kind(tmp_path):
  with pytest.raises(ValueError, match='there is no file .*absent.csv'):
    tables.read(tmp_path / 'absent.csv')
  with pytest.raises(ValueError, match='neither .csv, .csv.gz nor .npz'):
    tables.read(write(tmp_path, CSV, 'rows.xlsx'))


def test_npz(tmp_path):
  path = tmp_path / 'rows.npz'
  x = np.arange(12.0).reshape(3, 2, 2)
  np.savez(path, x=x, strength=[1, 2, 3])
  table = tables.read(path, 'strength')
  np.testing.assert_array_equal(table.rows['x'], x)
  np.testing.assert_array_equal(table.rows['y'], [1, 2, 3])
  assert table.columns == ('x0', 'x1', 'x2', 'x3')
  with pytest.raises(ValueError, match=r"no array 'y', it has \['strength'"):
    tables.read(path)


def test_npz_damaged(tmp_path):
  path = tmp_path / 'rows.npz'
  np.savez(path, x=np.zeros((3, 2)), y=np.zeros(3))
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(ValueError, match='is not a whole NPZ file'):
    tables.read(path)


def test_npz_rows_that_do_not_match(tmp_path):
  path = tmp_path / 'rows.npz'
  np.savez(path, x=np.zeros((3, 2)), y=np.zeros(4))
  with pytest.raises(ValueError, match=r'different numbers of rows: \[3, 4\]'):
    tables.read(path)
