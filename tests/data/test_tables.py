import gzip

import numpy as np
import pandas as pd
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
    (CSV, {}, "column 'kind' of .* is text .*'red'.*: give numbers, leave"),
    (
      CSV.replace('red', '', 1),
      {'one_hot': True},
      "no value in column 'kind' of 1 rows, the first is row 0",
    ),
    (
      NUMBERS.replace('5.5', ''),
      {},
      "no value in column 'b' of 1 rows, the first is row 1",
    ),
    (
      NUMBERS.replace('6', ''),
      {},
      "no value in column 'y' of 1 rows, the first is row 1",
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


# Text of a file (target 'y'), options, words of the sentence.
STRICT = {
  'a field too many': ('a,b,y\n1,2,3\n4,5,6,7\n', {}, 'line 3 .* 4 fields and the'),
  'in every line': ('a,b,y\n1,2,3,9\n4,5,6,9\n', {}, 'line 2 .* 4 fields and the'),
  'a comma at the end': ('a,b,y\n1,2,3,\n', {}, 'line 2 .* 4 fields'),
  'a field too few': ('a,b,y\n1,2,3\n4,5\n', {}, 'line 3 .* 2 fields and the'),
  'no name': (',a,y\n0,1,2\n1,3,4\n', {}, 'column 0 .* has no name'),
  'one name twice': ('a,y,y\n1,2,2\n', {}, "2 columns 'y'"),
  'an index': ('id,a,y\n0,5,1\n1,6,2\n2,4,3\n', {}, "'id' .* numbers the rows"),
  'semicolons': ('a;b;y\n1;2;3\n', {}, 'has no comma'),
  'a question mark': ('a,y\n1,2\n?,3\n4,5\n', {}, r"'\?' among numbers .* 'a'"),
  'NA among numbers': ('a,y\n1,2\nNA,3\n4,5\n', {}, "'NA' among numbers"),
  'a word as target': ('a,y\n1,2\n3,x\n4,5\n', {}, "'x' among numbers .* 'y'"),
  'infinity': ('a,y\n1,2\ninf,3\n', {}, "NaN or infinity in column 'a'"),
  'beyond float32': ('a,y\n1,2\n1e300,3\n', {}, "beyond float32 in column 'a'"),
  'large numbers': (
    'n,y\n16777216,1\n16777217,2\n', {}, "'n' .* above 2.24 that float32"
  ),
  'large targets': (
    'a,y\n1,16777216\n2,16777217\n', {}, "'y' .* above 2.24 that float32"
  ),
  'names of rows': (
    'who,y\nann,1\nbob,2\ncy,3\ndi,4\n', {'one_hot': True},
    "'who' .* 4 different texts in 4 rows",
  ),
  'thousands': ('a,y\n"1,200",2\n"3,400",3\n', {}, "is text .*'1,200'"),
  'fractions as classes': (
    'a,y\n1,0.5\n2,1.5\n', {'classification': True}, 'has fractions'
  ),
  'nothing but the target': ('y\n1\n2\n', {}, 'no column but the target'),
  'dropped, not there': (NUMBERS, {'drop': ('z',)}, "no column 'z'"),
  'the target dropped': (NUMBERS, {'drop': ('y',)}, 'is the target'),
}  # fmt: skip


@pytest.mark.parametrize('kind', STRICT)
def test_a_file_with_two_readings_is_refused(tmp_path, kind):
  text, options, words = STRICT[kind]
  with pytest.raises(ValueError, match=words):
    tables.read(write(tmp_path, text), **options)


@pytest.mark.parametrize(
  'text',
  [
    NUMBERS.replace(',', ' , '),
    NUMBERS.replace('\n', '\r\n'),
    '\ufeff' + NUMBERS,
    NUMBERS.replace('2.5', '"2.5"'),
    NUMBERS + '\n\n',
  ],
  ids=['blanks', 'windows', 'byte order mark', 'quotes', 'blank lines'],
)
def test_the_same_numbers_written_otherwise(tmp_path, text):
  table = tables.read(write(tmp_path, text))
  np.testing.assert_array_equal(table.rows['x'], [[1, 2.5], [4, 5.5], [7, 8.5]])
  np.testing.assert_array_equal(table.rows['y'], [3, 6, 3])


def test_a_class_may_be_called_na(tmp_path):
  path = write(tmp_path, 'a,y\n1,NA\n2,EU\n3,NA\n')
  table = tables.read(path, classification=True)
  assert table.classes == ('EU', 'NA')
  np.testing.assert_array_equal(table.rows['y'], [1, 0, 1])


def test_booleans_are_numbers(tmp_path):
  table = tables.read(write(tmp_path, 'a,y\nTrue,1\nfalse,2\n'))
  np.testing.assert_array_equal(table.rows['x'], [[1], [0]])


def test_columns_are_dropped(tmp_path):
  table = tables.read(write(tmp_path, CSV), drop=('kind', 'a'))
  assert table.columns == ('b',)


@pytest.mark.parametrize('options', [{}, {'one_hot': True, 'target': 'b'}])
def test_a_frame_is_read_as_its_file(tmp_path, options):
  pandas = pytest.importorskip('pandas')
  path = write(tmp_path, CSV if options else NUMBERS)
  want = tables.read(path, **options)
  got = tables.from_frame(pandas.read_csv(path), **options)
  assert got[1:] == want[1:]
  for name in ('x', 'y'):
    np.testing.assert_array_equal(got.rows[name], want.rows[name])


def test_a_frame_is_read_strictly():
  pandas = pytest.importorskip('pandas')
  frame = pandas.DataFrame({'a': [1.0, None], 'y': [1, 2]})
  with pytest.raises(ValueError, match="no value in column 'a' of 1 rows"):
    tables.from_frame(frame)
  frame['a'] = pandas.to_datetime(['2020-01-01', '2020-01-02'])
  with pytest.raises(ValueError, match="column 'a' .* datetime64"):
    tables.from_frame(frame)
  with pytest.raises(ValueError, match='dict is no DataFrame'):
    tables.from_frame({'a': [1], 'y': [2]})
  kinds = pandas.DataFrame(
    {'a': pandas.array([1, 2], 'Int64'), 'y': pandas.Categorical(['u', 'v'])}
  )
  table = tables.from_frame(kinds, classification=True)
  np.testing.assert_array_equal(table.rows['x'], [[1], [2]])
  assert table.classes == ('u', 'v')


ARRAYS = {
  'objects': ({'y': np.array(['a', None], object)}, "'y' .* Python objects"),
  'one number': ({'y': np.float64(3)}, "'y' .* is one number"),
  'one x': ({'x': np.float64(3)}, "'x' .* is one number"),
  'complex': ({'x': np.ones((2, 2)) * 1j}, "'x' .* complex128: give real"),
  'complex targets': ({'y': np.ones(2) * 1j}, "'y' .* complex128"),
  'dates': ({'x': np.zeros((2, 1), 'datetime64[D]')}, "'x' .* datetime64"),
  'not one-hot': (
    {'y': np.array([[1, 1], [0, 1]]), 'classification': True},
    r"'y' .* shape \[2, 2\]: give one class",
  ),
  'large numbers': (
    {'x': np.array([[2**24], [2**24 + 1]])}, 'above 2.24 that float32'
  ),
}  # fmt: skip


@pytest.mark.parametrize('kind', ARRAYS)
def test_npz_refused(tmp_path, kind):
  changes, words = ARRAYS[kind]
  options = {k: v for k, v in changes.items() if k == 'classification'}
  arrays = {'x': np.zeros((2, 2)), 'y': np.zeros(2), **changes}
  arrays.pop('classification', None)
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(ValueError, match=words) as refused:
    tables.read(tmp_path / 'a.npz', **options)
  assert 'not a whole' not in str(refused.value)


@pytest.mark.parametrize('made', [lambda y: y[:, None], lambda y: np.eye(3)[y]])
def test_npz_labels_of_other_shapes_are_decoded(tmp_path, made):
  y = np.array([2, 0, 1, 1])
  np.savez(tmp_path / 'a.npz', x=np.zeros((4, 2)), y=made(y))
  table = tables.read(tmp_path / 'a.npz', classification=True)
  np.testing.assert_array_equal(table.rows['y'], y)
  assert table.classes == ('0', '1', '2')


UNREADABLE = {  # text of a file, options, words of the sentence
  'a coded column of one name': (
    'a,a_red,y\nred,2,1\nblue,4,2\nred,7,1\nblue,4,2\n',
    {'one_hot': True},
    "makes a column 'a_red' of 'a'",
  ),
  'two coded columns of one name': (
    'a,a_b,y\nb_c,c,1\nd,e,2\nb_c,c,1\nd,e,2\n',
    {'one_hot': True},
    "makes a column 'a_b_c' of 'a_b'",
  ),
  'infinite labels': (
    'a,y\n1,inf\n2,1\n3,1\n',
    {'classification': True},
    'infinity in column .y.',
  ),
  'labels beyond 2^53': (
    'a,y\n1,1e30\n2,2e30\n3,1\n',
    {'classification': True},
    r'a label beyond 2\^53',
  ),
  'labels in two spellings': (
    'a,y\n1,01\n2,1\n3,2\n',
    {'classification': True},
    "writes one number in several ways .'01' and '1'.",
  ),
  'times': (
    'a,y\n1700000000.5,1\n1700000001.5,2\n1700000002,3\n',
    {},
    "'a' .* float32 cannot tell apart .*subtract their mean",
  ),
  'a target of times': (
    'a,y\n1,1700000000.5\n2,1700000001.5\n4,1700000002\n',
    {},
    "'y' .* float32 cannot tell apart",
  ),
  'tiny numbers': (
    'a,y\n1e-50,1\n2e-50,2\n3e-50,4\n',
    {},
    "'a' .* float32 cannot tell apart",
  ),
  'identifiers of many digits': (
    'a,y\n12345678901234567890123,1\n12345678901234567890124,2\n',
    {},
    'too many digits in column .a.',
  ),
  'decimal commas': (
    'a;b;y\n1,5;2;3\n4,5;5;6\n',
    {},
    'no comma .*separate its columns by commas .and write decimals',
  ),
}


@pytest.mark.parametrize('kind', UNREADABLE)
def test_numbers_and_names_that_would_be_merged_are_refused(tmp_path, kind):
  text, options, words = UNREADABLE[kind]
  with pytest.raises(ValueError, match=words):
    tables.read(write(tmp_path, text), **options)


def test_measurements_around_a_mean_are_read(tmp_path):
  rng = np.random.default_rng(0)
  a = 1000 + rng.normal(size=50)
  text = 'a,y\n' + ''.join(f'{x},{i}\n' for i, x in enumerate(a))
  found = tables.read(write(tmp_path, text)).rows['x'][:, 0]
  np.testing.assert_allclose(found, a, rtol=1e-6)


def test_files_damaged_in_their_compressed_part_are_refused(tmp_path):
  path = tmp_path / 'rows.csv.gz'
  rows = 'a,y\n' + ''.join(f'{i},{i % 7}\n' for i in range(500))
  data = bytearray(gzip.compress(rows.encode()))
  for i in range(40, 60):
    data[i] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(ValueError, match='is not a readable CSV file'):
    tables.read(path)
  (tmp_path / 'latin.csv').write_bytes(b'a,y\n1,2\n' + b'\xe9,3\n')
  with pytest.raises(
    ValueError, match='not written in UTF-8 .*save it as UTF-8'
  ):
    tables.read(tmp_path / 'latin.csv')


def test_npz_of_one_array_and_of_nothing(tmp_path):
  np.save(tmp_path / 'a.npy', np.zeros(3))
  path = (tmp_path / 'a.npy').rename(tmp_path / 'a.npz')
  with pytest.raises(ValueError, match='a .npy file of one array'):
    tables.read(path)
  for shape in ((0, 3), (5, 0)):
    np.savez(path, x=np.zeros(shape), y=np.zeros(shape[0]))
    with pytest.raises(ValueError, match='at least one row and one feature'):
      tables.read(path)
  np.savez(path, x=np.zeros((3, 2)), y=np.zeros(3))
  with pytest.raises(ValueError, match='no columns of text for one_hot'):
    tables.read(path, one_hot=True)


def test_a_frame_may_have_dates_to_drop_and_sparse_columns():
  frame = pd.DataFrame({'a': [1.0, 2.0], 'y': [0, 1]})
  frame['date'] = pd.to_datetime(['2020-01-01', '2020-01-02'])
  frame['s'] = pd.arrays.SparseArray([0, 3])
  found = tables.from_frame(frame, drop=['date'])
  assert found.columns == ('a', 's')
  np.testing.assert_array_equal(found.rows['x'], [[1, 0], [2, 3]])
