"""What a pod would take: formulas by hand, and against compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tda_jax as tda
from scripts import compile_for_tpu, scaling
from tda_jax import cost, pods
from tda_jax.layers import operations
from tda_jax.run import Run
from tda_jax.storage import record

SIZES = cost.Sizes(
  entries=1000, squares=500, largest=600, moved=5000, formed=10_000,
  through=70_000, forward=30_000, parameters=4000, row=40,
)  # fmt: skip
WORK = cost.Work(rows=1000, queries=30, fitted=25, scored=100, at_once=20)

N = 40
ROWS = {'x': np.ones((N, 5), np.float32), 'y': np.arange(N) % 3}
QUERIES = {name: column[:6] for name, column in ROWS.items()}
PARAMS = {'a': jnp.ones((5, 7)), 'c': jnp.ones(7), 'b': jnp.ones((7, 3))}
PROBLEM = tda.classification(
  lambda p, x: jnp.tanh(x @ p['a'] + p['c']) @ p['b']
)
EKFAC = tda.influence(tda.ekfac(0.1, batch_size=10))
GIVEN = (PROBLEM, PARAMS, ROWS, QUERIES)


@pytest.mark.parametrize(
  'text, chips',
  [('v5e:16x16', 256), ('v5e:8', 8), ('v5p:8x8x8', 512), ('v6e:2x4', 8)],
)
def test_a_pod_is_a_chip_and_its_topology(text, chips):
  pod = cost.pod(text, model=4)
  assert (pod.chips, pod.shares) == (chips, chips // 4)
  assert pod.chip is cost.CHIPS[text[:3]]


@pytest.mark.parametrize(
  'text, model, message',
  [
    ('v9:4x4', 1, "no chip 'v9' is known here, only v5e, v5p, v6e"),
    ('16x16', 1, "no chip '16x16'"),
    (256, 1, "no chip '256'"),
    ('v5e', 1, 'v5e has grids of 2 axes and at most 256 chips'),
    ('v5e:8x8x8', 1, 'v5e has grids of 2 axes'),
    ('v5e:16x32', 1, 'at most 256 chips'),
    ('v5p:16x16', 1, "give one as 'v5p:4x4x4', or a number of chips"),
    ('v5e:0x4', 1, 'grids of 2 axes'),
    ('v5e:4x-4', 1, 'grids of 2 axes'),
    ('v5e:4x4', 3, 'model=3 does not divide the 16 chips'),
    ('v5e:4x4', 0, 'model=0 does not divide'),
  ],
)
def test_a_pod_that_is_none_gets_one_sentence(text, model, message):
  with pytest.raises(ValueError, match=message):
    tda.plan(EKFAC, *GIVEN, pod=text, model=model)


def test_stages_by_hand():
  """v5e, 8 chips, 2 along `model`: 4 shares, 10 batches to fit, 3 to score."""
  fit, solve, score = cost.stages(SIZES, cost.pod('v5e:2x4', 2), WORK)
  assert fit.given == 4000 / 2 + 25 * 40
  assert fit.left == solve.given - 4000 / 2 - 20 * 40 == 4 * 1500 / 2
  assert solve.left == 4 * (500 + 20 * 1000) / 2
  assert score.given == 4000 / 2 + solve.left + 100 * 40
  assert score.left == 4 * 100 * 20
  working = [stage.working for stage in (fit, solve, score)]
  assert working == [4 * 25 * 600 / 2, 4 * 20 * 1000 / 2, 4 * 100 * 600 / 2]
  peak = 8 * 197e12
  wide = 6 * 1000 * (4 * 5000 + 2 * 10_000)
  assert fit.products == pytest.approx((1000 * 140_000 + wide) / peak)
  wide = 6 * 30 * (2 * 5000 + 2 * 10_000)  # two blocks, of 15 in the mean
  assert solve.products == pytest.approx((30 * 70_000 + wide) / peak)
  wide = 6 * 1000 * (2 * (2 * 5000 + 2 * 10_000) + 2 * 30 * 1000)
  assert score.products == pytest.approx((2 * 1000 * 70_000 + wide) / peak)
  batch = 6 * 4000 + 8 * 500 + 4 * 1000
  assert fit.links == pytest.approx(10 * batch / 200e9)
  assert solve.links == pytest.approx(2 * (3 * 4000 + 8 * 500) / 200e9)
  assert score.links == pytest.approx(2 * 3 * (3 * 4000 + 4 * 500) / 200e9)
  assert fit.memory == pytest.approx(10 * fit.total / 819e9)
  assert score.memory == pytest.approx(6 * score.total / 819e9)
  assert fit.seconds == max(fit.products, fit.memory, fit.links) == fit.links


def test_where_rows_alone_are_divided_scoring_sends_nothing():
  one, four = cost.pod('v5e:1'), cost.pod('v5e:4')
  assert {*cost.sent(SIZES, one, WORK).values()} == {0}
  sent = cost.sent(SIZES, four, WORK)
  assert sent == {'fit': 4 * 2500, 'solve': 30 * 4000, 'score': 0}
  single, divided = (cost.stages(SIZES, pod, WORK) for pod in (one, four))
  for a, b in zip(single, divided, strict=True):
    assert a.products == pytest.approx(4 * b.products)


def test_sizes_of_a_perceptron_by_hand():
  example = {'x': np.zeros(5, np.float32), 'y': np.int32(0)}
  sizes = pods.sizes_of(PROBLEM, Run(PARAMS), example)
  forward = 2 * (5 * 7 + 7 * 3)
  assert sizes == cost.Sizes(
    entries=6 * 7 + 7 * 3, squares=36 + 49 + 49 + 9, largest=42,
    moved=36 + 49 + 49 + 9, formed=6 * 7 + 7 * 3,
    forward=forward, through=forward + 2 * 7 * 3,  # back to the first outputs
    parameters=4 * (5 * 7 + 7 + 7 * 3), row=24, passes=6,
  )  # fmt: skip


def test_sizes_of_a_scanned_decoder_are_those_by_hand():
  """In bfloat16, layers computed twice, embedding and head not scored by."""
  case = compile_for_tpu.blocks_case()
  example = {n: jax.ShapeDtypeStruct(*given) for n, given in case.row.items()}
  sizes = pods.sizes_of(case.problem, Run(case.params), example)
  assert sizes == scaling.SIZES['blocks'].of_row


def test_products_of_loops_branches_and_windows_are_counted():
  w = jnp.ones((4, 4))
  count = lambda f, *x: operations.of_jaxpr(jax.make_jaxpr(f)(*x).jaxpr)
  scan = lambda x: jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]
  assert count(scan, w) == 5 * 2 * 64
  either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, jnp.sin, x)
  assert count(either, w) == 2 * 2 * 64
  window = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), 'VALID')
  image, kernel = jnp.ones((2, 3, 8, 8)), jnp.ones((5, 3, 2, 2))
  assert count(window, image, kernel) == 2 * (2 * 5 * 7 * 7) * (3 * 2 * 2)


def programs():
  """(program of results/pods.json, its pod, sizes and work)."""
  pods_json = record.read_json(compile_for_tpu.RESULTS)
  for program in pods_json['programs']:
    sizes = scaling.SIZES.get(program['case'])
    if sizes is None or program['stage'] == 'prepare':
      continue
    case = compile_for_tpu.CASES[program['case']]()
    pod = cost.pod(program['topology'], case.model)
    batch = case.rows(pod.chips) // pod.shares
    work = cost.Work(
      case.rows(pod.chips), case.queries, batch, batch, case.queries
    )
    yield program, pod, sizes.of_row, work


def test_bytes_by_formula_are_those_of_compiled_programs():
  for program, pod, sizes, work in programs():
    given, left, _ = cost.held(sizes, pod, work)[program['stage']]
    assert given == pytest.approx(program['arguments'], rel=0.07)
    assert left == pytest.approx(program['results'], rel=0.02, abs=2**14)
    sent = cost.sent(sizes, pod, work)[program['stage']]
    assert 0.8 * program['sent'] <= sent <= 1.6 * program['sent']


def test_a_plan_for_a_pod():
  found = tda.plan(
    EKFAC, *GIVEN, batch_size=4, pod='v5e:2x2', model=2, queries_at_once=3
  )
  example = {'x': np.zeros(5, np.float32), 'y': np.int32(0)}
  sizes = pods.sizes_of(PROBLEM, Run(PARAMS), example)
  work = cost.Work(N, 6, fitted=10, scored=4, at_once=3)
  want = cost.stages(sizes, cost.pod('v5e:2x2', 2), work)
  assert list(found.stages) == want
  assert found.peak == max(stage.total for stage in want)
  assert found.seconds == sum(stage.seconds for stage in want)
  assert '4 chips of v5e:2x2, 16.0 GB each' in str(found)
  assert str(found).startswith('fit ')


def test_a_plan_that_does_not_fit_gets_one_sentence(monkeypatch):
  small = cost.CHIPS['v5e']._replace(size=2000)
  monkeypatch.setitem(cost.CHIPS, 'v5e', small)
  with pytest.raises(ValueError, match='needs .* a chip, and one of v5e:4 has'):
    tda.plan(EKFAC, *GIVEN, pod='v5e:4')


@pytest.mark.parametrize(
  'method',
  [
    tda.grad_dot(),
    tda.influence(tda.cg(0.1)),
    tda.influence(tda.kfac(0.1)),
    tda.influence(tda.ekfac(0.1, labels='exact')),
    tda.influence(tda.ekfac(0.1), query_rank=2),
  ],
)
def test_a_pod_is_planned_for_ekfac_alone(method):
  with pytest.raises(ValueError, match='known of tda.influence.tda.ekfac'):
    tda.plan(method, *GIVEN, pod='v5e:4')


def test_what_is_of_a_pod_alone_is_refused_without_one():
  with pytest.raises(ValueError, match='are of a pod: give pod'):
    tda.plan(EKFAC, *GIVEN, model=2)
