import json
import pathlib

import pytest

from scripts import verdicts
from scripts.verdicts import DOES_NOT, HOLDS, UNDECIDED

ROOT = pathlib.Path(__file__).parents[1]
ABOVE = 'LDS difference above 0'


def claim(observed, expected=ABOVE, holds=False):
  return {'observed': observed, 'expected': expected, 'holds': holds}


@pytest.mark.parametrize(
  'expected, observed, verdict',
  [
    (ABOVE, '-0.023 [-0.045, +0.002]', UNDECIDED),
    (ABOVE, '-0.055 [-0.074, -0.039]', DOES_NOT),
    # As written, 0 is in the interval: rounding may have brought it there.
    (ABOVE, '-0.011 [-0.022, -0.000]', UNDECIDED),
    ('gain above 0', '-0.010 − -0.023 = +0.013 [-0.003, +0.028]', UNDECIDED),
    ('gain above 0', '-0.010 − 0.023 = -0.033 [-0.043, -0.028]', DOES_NOT),
    ('LDS difference below 0', '+0.000 [-0.001, +0.001]', UNDECIDED),
    ('LDS difference below 0', '+0.009 [+0.001, +0.020]', DOES_NOT),
    ('LDS of at least .95', '0.859 [0.849, 0.871]', DOES_NOT),
    ('LDS of at least .95', '0.945 [0.939, 0.951]', UNDECIDED),
    ('class_detection above 0.9', '0.880 [0.762, 0.944]', UNDECIDED),
    ('not significantly below 0', '-0.101 [-0.133, -0.069]', DOES_NOT),
    ('not significantly below 0', '+0.101 [+0.069, +0.133]', UNDECIDED),
    ('share saved above 10%', '60% [0%, 88%] by 10 x 1', UNDECIDED),
    ('share saved above 10%', '0% [0%, 0%] by no ensemble', DOES_NOT),
    # ± is one error, and the claim asks for two.
    ('p above 0 by 2 SE', '0.6 − 0.5 = +0.055 ± 0.046', UNDECIDED),
    ('p above 0 by 2 SE', '0.5 − 0.7 = -0.242 ± 0.045', DOES_NOT),
    ('p above 0 by 2 SE', '0.5 − 0.6 = -0.060 ± 0.045', UNDECIDED),
    # Where the spread is not known, nothing is decided.
    (ABOVE, '-0.100 –', UNDECIDED),
    (ABOVE, '0.6 − 0.7 = -0.100 ± nan', UNDECIDED),
    # Without an interval, or a threshold, nothing speaks for the claim.
    ('fewer steps to a residual of 0.8', '200 against 50; at 0.8', DOES_NOT),
    ('mean relative residual at most 1e-2', '0.034', DOES_NOT),
    ('10', '8.237', DOES_NOT),
    ('more', '0.1 [-0.1, 0.3]', DOES_NOT),
  ],
)
def test_a_claim_that_does_not_hold(expected, observed, verdict):
  assert verdicts.verdict(claim(observed, expected)) == verdict
  assert verdicts.verdict(claim(observed, expected, holds=True)) == HOLDS


def test_intervals():
  found = verdicts.observed(claim('0.6 − 0.4 = +0.2 ± 0.1', 'by 2 SE'))
  assert found == (0.2, 0.0, 0.4, '')
  assert verdicts.observed(claim('0.5 ± 0.25')) == (0.5, 0.25, 0.75, '')
  assert verdicts.observed(claim('62% [36%, 77%] by 5 x 3'))[1:] == (
    36.0,
    77.0,
    '%',
  )
  assert verdicts.observed(claim('0.034')) == (0.034, None, None, '')
  assert verdicts.observed(claim('200 against 50; at')) is None


def test_like_claims_share_lines():
  """Settings of one verdict share a line, what holds first."""
  yes = claim('+0.2 [+0.1, +0.3]', holds=True)
  no, unsure = claim('-0.2 [-0.3, -0.1]'), claim('-0.1 [-0.3, +0.1]')
  found = verdicts.lines(
    {'a': [no], 'b': [yes, yes], 'c': [yes, no, unsure], 'd': [yes]}
  )
  assert [line.settings for line in found] == [['b', 'd'], ['c'], ['a']]
  assert [line.verdict for line in found] == [
    'holds (all 3)',
    '1 holds, 1 undecided, 1 does not',
    '**does not**',
  ]
  assert found[0].ours == '+0.200 [+0.100, +0.300]'
  assert found[1].ours == '-0.200 [-0.300, -0.100] to +0.200 [+0.100, +0.300]'


def test_every_interval_of_a_committed_run_is_read():
  """A claim with an interval in its text has one; it agrees with `holds`."""
  for path in (ROOT / 'results').glob('*.json'):
    for one in json.loads(path.read_text())['claims']:
      seen = verdicts.observed(one)
      if '[' not in str(one['observed']) and '±' not in str(one['observed']):
        continue
      assert seen is not None and seen.low <= seen.value <= seen.high, one
      if one['expected'] == ABOVE:
        assert one['holds'] is False or seen.low >= 0, one
