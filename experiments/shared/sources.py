"""The sources of a config's data: packaged tables, and files."""

from tda_jax.data import images as images_lib
from tda_jax.data import tables

TABLES = {
  'concrete': tables.concrete,
  'diabetes': tables.diabetes,
  'breast_cancer': tables.breast_cancer,
}
FILES = {  # tables that no package ships -> where to get them
  'energy': (
    'the UCI Energy Efficiency data (archive.ics.uci.edu/dataset/242, the sheet'
    ' of ENB2012_data.xlsx saved as CSV)'
  ),
  'heloc': (
    'the FICO HELOC data (community.fico.com, or Kaggle; heloc_dataset_v1.csv)'
  ),
  'folktables': (
    'ACSIncome of Massachusetts, 2018, one-hot, as the docstring of'
    ' configs/final_model_only/folktables.py makes it'
  ),
}
IMAGE_FILES = {
  'mnist': images_lib.mnist,
  'fashion_mnist': images_lib.fashion_mnist,
  'cifar10': images_lib.cifar10,
}
CLASSES = {
  'breast_cancer': ('malignant', 'benign'),
  'fashion_mnist': (
    'T-shirt',
    'trouser',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'boot',
  ),
  'cifar10': (
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
  ),
}


def read(data):
  """(rows, columns, classes or None) of a packaged table, or a user's file.

  Raises:
    ValueError: there is no such table.
  """
  if data.name in TABLES:
    rows, columns = TABLES[data.name](), tables.columns(data.name)
    return rows, columns, CLASSES.get(data.name)
  path = data.path if data.name in FILES else data.name
  if not path.endswith(('.csv', '.csv.gz', '.npz')):
    if data.name in FILES:
      raise ValueError(
        f'data.path={path!r} is no .csv or .npz file: get'
        f' {FILES[data.name]} and give its path as --config.data.path=FILE'
      )
    raise ValueError(
      f'unknown table {data.name!r}: use one of {sorted([*TABLES, *FILES])}, or'
      ' the path of a .csv or .npz file'
    )
  read = tables.read(
    path,
    data.target,
    classification=data.classification,
    one_hot=data.one_hot,
    drop=[name.strip() for name in data.drop.split(',') if name.strip()],
  )
  return read.rows, read.columns, read.classes or None
