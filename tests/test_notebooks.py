import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parents[1] / 'notebooks').glob('*.ipynb')
)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings('ignore')
def test_runs_from_top_to_bottom(path):
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={'metadata': {'path': path.parents[1]}}
  )
  client.execute()
  outputs = [o for c in notebook.cells for o in c.get('outputs', ())]
  assert outputs and all(o['output_type'] != 'error' for o in outputs)
