"""Programs for chips that are not here; what is read off compiled programs."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from scripts import compile_for_tpu, hlo, scaling

TEXT = """\
HloModule jit_f

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %w = f32[8,8]{1,0} constant({...})
  %y = f32[4,8]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %all = f32[4,8]{1,0} all-reduce(%y), channel_id=1, to_apply=%add
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%n, %all)
}

%condition (q: (s32[], f32[4,8])) -> pred[] {
  %q = (s32[], f32[4,8]{1,0}) parameter(0)
  %m = s32[] get-tuple-element(%q), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%m, %five), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

ENTRY %main (i: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %i = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[4,8]{1,0}) while(%i), condition=%condition, body=%body
}
"""


def test_loops_count_as_often_as_they_run():
  program = hlo.read(TEXT)
  assert hlo.flops(program) == 5 * 2 * 4 * 8 * 8
  (sent,) = hlo.exchanges(program)
  assert sent == hlo.Exchange('all-reduce', (('f32', (4, 8)),), 5)
  assert sent.size == 5 * 4 * 4 * 8


def test_a_loop_without_a_known_end_is_refused():
  with pytest.raises(ValueError, match='does not count to a constant'):
    hlo.read(TEXT.replace('direction=LT', 'direction=NE'))


def test_products_of_a_padded_window_leave_out_the_padding():
  """A window of 3 over 4 places with one of padding on both sides: 10 pairs."""
  text = TEXT.replace('f32[4,8]', 'f32[4,4,8]').replace(
    '%w), dim_labels=bf_io->bf',
    '%w), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f',
  )
  text = text.replace('f32[8,8]{1,0}', 'f32[3,8,8]{2,1,0}')
  assert hlo.flops(hlo.read(text)) == 5 * 2 * 4 * 8 * 8 * 10


def test_operations_of_a_scan_on_this_machine():
  def steps(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  lowered = jax.jit(steps).lower(jnp.ones((8, 16)), jnp.ones((5, 16, 16)))
  program = hlo.read(lowered.compile().as_text())
  assert hlo.flops(program) == 5 * 2 * 8 * 16 * 16


def test_the_formula_has_the_decoders_sizes():
  case = compile_for_tpu.decoder_case()
  sizes = scaling.SIZES['decoder']
  leaves = case.params['layers'].values()
  assert sizes.entries == sum(leaf.size for leaf in leaves)
  assert sum(x.size for x in jax.tree.leaves(case.params)) > 1e9


@pytest.mark.slow
def test_a_pod_divides_the_work(tmp_path):
  """From 4 chips to 16: a quarter of the operations, and no rows are sent."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("libtpu has the compiler for TPUs: pip install 'tda_jax[tpu]'")
  few, many = (
    {found['stage']: found for found in compile_for_tpu.in_a_process(tmp_path, 'mlp', pod)}
    for pod in ('v5e:2x2', 'v5e:4x4')
  )  # fmt: skip
  for stage, found in many.items():
    assert not found['sends_rows']
    assert 3.6 < few[stage]['flops'] / found['flops'] < 4.4, stage
  assert many['score']['exchanges'] == []
