import json

import numpy as np
import pytest

from tda_jax.storage import record

INPUTS = {'damping': 0.1, 'data': {'seed': 0, 'rows': np.int64(5)}}


def test_a_stage_from_begin_to_complete(tmp_path):
  stage = tmp_path / 'train'
  assert record.begin(stage, INPUTS) is False
  assert record.begin(stage, INPUTS) is False
  record.complete(stage)
  assert record.begin(stage, INPUTS) is True
  kept = record.read_json(stage / 'run.json')
  assert kept['inputs'] == {'damping': 0.1, 'data': {'seed': 0, 'rows': 5}}
  assert {'commit', 'dirty', 'jax', 'flax', 'numpy', 'python', 'devices',
          'command', 'time'} <= set(kept['environment'])  # fmt: skip


def test_another_stage_is_refused_and_kept(tmp_path):
  record.begin(tmp_path, INPUTS)
  (tmp_path / 'data').write_text('precious')
  other = {'damping': 0.2, 'data': {'seed': 0, 'rows': 6}}
  with pytest.raises(ValueError) as error:
    record.begin(tmp_path, other)
  message = str(error.value)
  assert 'damping is 0.1 there and 0.2 now' in message
  assert 'data.rows is 5 there and 6 now' in message
  assert 'seed' not in message and 'give another folder' in message
  assert (tmp_path / 'data').read_text() == 'precious'


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(ValueError, match="holds 'thesis.tex' but no run.json"):
    record.begin(tmp_path, INPUTS)


def test_a_kill_before_run_json_leaves_a_usable_folder(tmp_path):
  (tmp_path / '.run.json.123').write_text('{"inp')
  assert record.begin(tmp_path, INPUTS) is False


def test_json_is_whole_or_refused(tmp_path):
  file = tmp_path / 'a.json'
  record.write_json(file, {'x': np.float32(1.5), 'y': float('nan'), 'z': (1,)})
  kept = json.loads(file.read_text())
  assert len(kept.pop('checksum')) == 64
  assert kept == {'x': 1.5, 'y': None, 'z': [1]} == record.read_json(file)
  with pytest.raises(TypeError):
    record.write_json(file, {'x': object()})
  assert record.read_json(file)['x'] == 1.5
  whole = file.read_text()
  for changed in (whole[:9], '', '3', whole.replace('1.5', '1.6')):
    file.write_text(changed)
    with pytest.raises(ValueError, match='is damaged .*: delete that file and'):
      record.read_json(file)
  file.write_text('{"by": "hand"}')
  assert record.read_json(file) == {'by': 'hand'}
  with pytest.raises(ValueError, match='no b.json in .*: run that stage first'):
    record.read_json(tmp_path / 'b.json')


def test_a_damaged_record_of_a_stage_names_the_folder(tmp_path):
  record.begin(tmp_path / 's', INPUTS)
  file = tmp_path / 's' / 'run.json'
  file.write_text(file.read_text().replace('0.1', '0.2'))
  with pytest.raises(ValueError, match='delete the folder .*/s and run the'):
    record.begin(tmp_path / 's', INPUTS)


@pytest.mark.parametrize('name', ['', '.', '..', '../x', '/x', 'a/b', 'a\\b'])
def test_names_that_are_paths(name):
  assert record.safe_name('exact_.1', 'a method') == 'exact_.1'
  with pytest.raises(
    ValueError, match='a method is called .* no folder of its'
  ):
    record.safe_name(name, 'a method')


def test_results(tmp_path):
  row = {'method': 'ekfac', 'metric': 'lds', 'value': np.nan, 'n': 3}
  claim = dict.fromkeys(record.CLAIM, 'x') | {'holds': np.True_}
  file = tmp_path / 'results.json'
  record.results(file, 'astra', 'digits', [row], [claim])
  kept = record.read_json(file)
  assert list(kept['rows'][0]) == list(record.ROW)
  assert kept['rows'][0]['value'] is None and kept['rows'][0]['n'] == 3
  assert kept['claims'][0]['holds'] is True
  assert (kept['experiment'], kept['setting']) == ('astra', 'digits')
  with pytest.raises(ValueError, match=r"result 0 lacks \['metric'\]"):
    record.results(file, 'a', 'b', [{'method': 'x', 'value': 1}], [])
  with pytest.raises(ValueError, match=r"unknown fields \['lds'\]"):
    record.results(file, 'a', 'b', [row | {'lds': 1}], [])
  with pytest.raises(ValueError, match='claim 0 lacks'):
    record.results(file, 'a', 'b', [row], [{'claim': 'x'}])
