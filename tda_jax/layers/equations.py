"""The only module, with `multiplications`, that reads JAX's equations.

A jaxpr is a list of equations: a primitive, its parameters, its inputs and
outputs. JAX may rename any of these between releases, so every name is in this
file or in `multiplications`, and a name that is gone raises "JAX x.y changed
...".
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.extend import source_info_util

REMAT = ('checkpoint', 'remat', 'remat2')
# Equations whose inner jaxpr has the equation's own inputs and outputs.
CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'core_call': 'call_jaxpr',
  **dict.fromkeys(REMAT, 'jaxpr'),
}
# The function itself, whose derivative is given beside it.
CUSTOM = {'custom_jvp_call': 'call_jaxpr'}
# Functions that are not entered: what they do with a parameter is unknown.
OPAQUE = (
  'custom_jvp_call',
  'custom_vjp_call',
  'custom_vjp_call_jaxpr',
  'custom_vmap_call',
  'custom_linear_solve',
  'custom_root',
  'shard_map',
  'pallas_call',
  'scatter-add',
  'scatter_add',
  'scatter_mul',
  'scatter',
  'reduce',
)
# Choices by value: the derivative is zero where an input was not chosen.
CHOICES = (
  'abs',
  'clamp',
  'max',
  'min',
  'reduce_max',
  'reduce_min',
  'reduce_window_max',
  'reduce_window_min',
  'select_n',
)
# FACTORS multiply by a mask or choose by it; MASKS may also add or move it.
FACTORS = ('div', 'dot_general', 'mul', 'select_n')
MASKS = (
  *FACTORS,
  'add',
  'dynamic_slice',
  'gather',
  'scatter',
  'scatter-add',
  'scatter_add',
  'sub',
)
CASTS = (
  'convert_element_type',
  'copy',
  'copy_p',
  'name',
  'pcast',
  'pvary',
  'reduce_precision',
  'sharding_constraint',
)
RESHAPES = (*CASTS, 'broadcast_in_dim', 'expand_dims', 'reshape', 'squeeze')


Path = tuple[int, ...]  # of an equation: its place in every jaxpr around it


class Step(NamedTuple):
  """One way to rearrange an array, or to cut a piece out of it."""

  kind: str  # 'reshape', 'transpose', 'reverse' or 'slice'
  argument: tuple
  shape: tuple[int, ...]  # afterwards


class Product(NamedTuple):
  """An equation y[h, s] = a[h, s] @ W[h] of one example."""

  kind: str  # 'dense'; 'embed': a is [1, S] row numbers of W
  steps: tuple[Step, ...]  # parameter -> W [*stack, I, O]
  stack: tuple[int, ...]  # (H,): heads, experts or groups; () for none
  rows: Callable  # input of the equation -> a [H, S, I]
  columns: Callable  # output of the equation -> y [H, S, O]
  axes: tuple  # of y: None for a position, else the rank among W's axes
  entries: Callable | None = None  # numbers of gathered matrices -> of each S


# --- equations that call functions ------------------------------------------


@contextlib.contextmanager
def reading(e: jex.JaxprEqn) -> Iterator[None]:
  """Turns a failed read of an equation into an error with JAX's version."""
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise RuntimeError(
      f'JAX {jax.__version__} changed the equation {name(e)!r}, which has the'
      f' parameters {sorted(e.params)} ({error!r}): install the JAX version'
      ' that this package pins, or mend layers/equations.py'
    ) from error


def name(e: jex.JaxprEqn) -> str:
  """The name of the equation's primitive."""
  return e.primitive.name


def where(e: jex.JaxprEqn) -> str:
  """The source line of the equation in the user's model."""
  return source_info_util.summarize(e.source_info)


def inner(e: jex.JaxprEqn) -> tuple[jex.Jaxpr, Sequence]:
  """(jaxpr, its constants) of an equation of CALLS or of a scan."""
  with reading(e):
    return _opened(e.params[{**CALLS, **CUSTOM}.get(name(e), 'jaxpr')])


def branches(e: jex.JaxprEqn) -> list[tuple[jex.Jaxpr, Sequence]]:
  """(jaxpr, its constants) of each branch of a `cond`."""
  with reading(e):
    return [_opened(branch) for branch in e.params['branches']]


def at(jaxpr: jex.Jaxpr, path: Path) -> jex.JaxprEqn:
  """The equation at a path."""
  e, rest = jaxpr.eqns[path[0]], path[1:]
  if not rest:
    return e
  if name(e) == 'cond':
    return at(branches(e)[rest[0]][0], rest[1:])
  return at(inner(e)[0], rest)


def _opened(jaxpr):
  closed = isinstance(jaxpr, jex.ClosedJaxpr)
  return (jaxpr.jaxpr, jaxpr.consts) if closed else (jaxpr, ())


def scan_split(e: jex.JaxprEqn) -> tuple[int, int]:
  """(number of a scan's constants, number of its carried values).

  They are read off the shapes: what is scanned over has one axis more outside.
  """
  with reading(e):
    body, _ = _opened(e.params['jaxpr'])

    def same(outside, inside):
      pairs = zip(outside, inside, strict=True)
      return sum(o.aval.ndim == i.aval.ndim for o, i in pairs)

    carried = same(e.outvars, body.outvars)
    return same(e.invars, body.invars) - carried, carried


def scan_options(e: jex.JaxprEqn) -> dict[str, Any]:
  """The keyword arguments of `jax.lax.scan`."""
  with reading(e):
    return {k: e.params[k] for k in ('length', 'reverse', 'unroll')}


def remat_options(e: jex.JaxprEqn) -> dict[str, Any]:
  """The keyword arguments of `jax.checkpoint`."""
  with reading(e):
    return {k: e.params[k] for k in ('prevent_cse', 'policy')}


def is_unknown_call(e: jex.JaxprEqn) -> bool:
  """Whether the equation calls a function and is in none of the lists above."""
  if name(e) in (*CALLS, *OPAQUE, 'scan', 'cond', 'while'):
    return False
  jaxprs = (jex.Jaxpr, jex.ClosedJaxpr)
  return any(isinstance(value, jaxprs) for value in e.params.values())


def shape_of(variable: Any) -> tuple[int, ...]:
  """Shape of an input or output; JAX declares none for its abstract values."""
  return variable.aval.shape


# --- equations that rearrange -----------------------------------------------


def rearrangement(e: jex.JaxprEqn) -> list[Step] | None:
  """The step from the first input to each output; None if it is no rearrangement."""
  kind, shape = name(e), shape_of(e.outvars[0])
  before = shape_of(e.invars[0])
  with reading(e):
    if kind in RESHAPES and math.prod(before) == math.prod(shape):
      if e.params.get('dimensions') is not None and kind == 'reshape':
        return None
      return [Step('reshape', shape, shape)]
    if kind == 'transpose':
      return [Step('transpose', tuple(e.params['permutation']), shape)]
    if kind == 'rev':
      return [Step('reverse', tuple(e.params['dimensions']), shape)]
    if kind == 'slice':
      stride = e.params['strides'] or (1,) * len(shape)
      start, stop = e.params['start_indices'], e.params['limit_indices']
      cut = tuple(zip(start, stop, stride, strict=True))
      return [Step('slice', cut, shape)]
    if kind == 'split':
      return _split(e, before)
  return None


def _split(e, before):
  steps, start = [], 0
  for size, out in zip(e.params['sizes'], e.outvars, strict=True):
    cut = [(0, n, 1) for n in before]
    cut[e.params['axis']] = (start, start + size, 1)
    steps.append(Step('slice', tuple(cut), shape_of(out)))
    start += size
  return steps


def broadcast_sizes(e: jex.JaxprEqn) -> tuple[int, ...] | None:
  """Size of the input along each output axis, 1 where it is repeated."""
  if name(e) != 'broadcast_in_dim':
    return None
  with reading(e):
    before, at = shape_of(e.invars[0]), list(e.params['broadcast_dimensions'])
    return tuple(
      before[at.index(axis)] if axis in at else 1
      for axis in range(len(shape_of(e.outvars[0])))
    )


def moved_axes(e: jex.JaxprEqn, axes: tuple) -> tuple | None:
  """`Product.axes` after a cast, a transpose or a change of unit axes."""
  before, after = shape_of(e.invars[0]), shape_of(e.outvars[0])
  if name(e) == 'transpose':
    with reading(e):
      return tuple(axes[i] for i in e.params['permutation'])
  wide = [n for n in before if n != 1]
  if name(e) not in RESHAPES or wide != [n for n in after if n != 1]:
    return None
  rest = iter([axis for n, axis in zip(before, axes, strict=True) if n != 1])
  return tuple(next(rest) if n != 1 else None for n in after)


def nested(jaxpr: jex.Jaxpr) -> Iterator[jex.JaxprEqn]:
  """All equations of a jaxpr, those of the jaxprs within them too."""
  for e in jaxpr.eqns:
    yield e
    for body in within(e):
      yield from nested(body)


def within(e: jex.JaxprEqn) -> list[Any]:
  """The jaxprs among an equation's parameters, closed or not."""
  has = lambda value: hasattr(value, 'eqns')  # a ClosedJaxpr has them too
  return [*filter(has, jax.tree.leaves(list(e.params.values()), is_leaf=has))]


# --- equations that choose --------------------------------------------------


def bodies(e: jex.JaxprEqn) -> list[tuple[Path, jex.Jaxpr, Sequence]]:
  """(place after the equation's path, jaxpr, its inputs) of each jaxpr it calls."""
  if name(e) == 'cond':
    return [((k,), b, e.invars[1:]) for k, (b, _) in enumerate(branches(e))]
  if name(e) in (*CALLS, *CUSTOM, 'scan'):
    return [((), inner(e)[0], e.invars)]
  return []


def chosen_from(e: jex.JaxprEqn, on_model: list[bool]) -> tuple[int, ...]:
  """The numbers of the inputs among which the model's values choose.

  Args:
    on_model: for each input, whether it depends on the parameters.
  """
  if name(e) not in CHOICES or (name(e) == 'select_n' and not on_model[0]):
    return ()
  first = name(e) == 'select_n'
  return tuple(i for i in range(first, len(on_model)) if on_model[i])


def unchosen(
  e: jex.JaxprEqn, chosen: tuple[int, ...], operands: Sequence[jax.Array]
) -> jax.Array:
  """A smooth replacement for a choice, to which each of its inputs adds."""
  shape = shape_of(e.outvars[0])
  with reading(e):
    if name(e).startswith('reduce_window'):
      p = e.params
      return jax.lax.reduce_window(
        operands[0],
        jnp.zeros((), operands[0].dtype),
        jax.lax.add,
        p['window_dimensions'],
        p['window_strides'],
        p['padding'],
        p['base_dilation'],
        p['window_dilation'],
      )
    if name(e).startswith('reduce'):
      # The value stays: a softmax is finite by it.
      reduce = jnp.max if name(e) == 'reduce_max' else jnp.min
      axes = e.params['axes']
      return _leaning(reduce(operands[0], axes), operands[0], axes)
  dtype = cast(Any, e.outvars[0].aval).dtype
  parts = [operands[i] / (1 + k) for k, i in enumerate(chosen)]
  return jnp.broadcast_to(sum(parts), shape).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _leaning(value, x, axes):
  """value, with the derivative of the sum of x."""
  return value


@_leaning.defjvp
def _leaning_jvp(axes, primals, tangents):
  return primals[0], tangents[1].sum(axes)
