"""LoRA: low-rank matrices added to some of a model's matrices.

  y = x W + (alpha/r) x A B,   A [I, r], B [r, O],

in which W is frozen and A, B are the parameters. `adapted` turns a problem in the
model's parameters into one in the adapters, which is trained and attributed like
any other. x A B is added to x W wherever the model applies W, by replaying its
jaxpr. (If W + A B were formed first, A and B would be no layers.) So A and B are
dense layers to every curvature and method, whatever library the model is written
in. A 2-D convolution is the product of patches with its kernel [h, w, C, O] as a
matrix of I = h·w·C rows. Of scanned layers, W [L, I, O], each has adapters of its
own: A [L, I, r], B [L, r, O].

Source: Hu et al. 2022, https://arxiv.org/abs/2106.09685
"""

import fnmatch
import functools
import glob
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.layers import find as layers_lib
from tda_jax.layers import replay, walk
from tda_jax.problem import Problem
from tda_jax.trees import PyTree

Adapters = dict[str, dict[str, jax.Array]]  # path of W -> {'a', 'b'}


def init(
  key: jax.Array,
  params: PyTree,
  rank: int,
  targets: Sequence[str] = ('*kernel',),
) -> Adapters:
  """Initial adapters {path: {'a': [I, r], 'b': [r, O]}}, which change nothing.

  The entries of a have variance 1/I; b is zero. Leaves with three axes are taken
  for the matrices of scanned layers.

  Args:
    params: of the model; only shapes are read.
    rank: r.
    targets: patterns of paths of matrices and kernels, for example '*/kernel'.

  Raises:
    ValueError: a pattern fits no leaf; a leaf that fits is no matrix; the rank
      is below 1 or above a side of a matrix.
  """
  leaves = _named(params)
  targets = (targets,) if isinstance(targets, str) else targets
  chosen = {}
  for pattern in targets:
    fit = {n: x for n, x in leaves.items() if fnmatch.fnmatch(n, pattern)}
    if not fit:
      raise ValueError(
        f'targets={pattern!r} fits no parameter: choose among {sorted(leaves)}'
      )
    chosen.update(fit)
  adapters = {}
  for i, (name, leaf) in enumerate(sorted(chosen.items())):
    if len(leaf.shape) not in (2, 3, 4):
      raise ValueError(
        f'{name} has shape {list(leaf.shape)}, of no matrix, no stack of them and'
        ' no 2-D convolution: choose targets with two to four axes'
      )
    stack = leaf.shape[:1] if len(leaf.shape) == 3 else ()
    rows, columns = math.prod(leaf.shape[len(stack) : -1]), leaf.shape[-1]
    if not 1 <= rank <= min(rows, columns):
      raise ValueError(
        f'rank={rank} for {name} {list(leaf.shape)}: give 1 to'
        f' {min(rows, columns)}'
      )
    own = jax.random.fold_in(key, i)
    a = jax.random.normal(own, (*stack, rows, rank), leaf.dtype)
    b = jnp.zeros((*stack, rank, columns), leaf.dtype)
    adapters[name] = {'a': a / rows**0.5, 'b': b}
  return adapters


def merge(base: PyTree, adapters: Adapters, alpha: float = 1.0) -> PyTree:
  """The model's parameters with W + (alpha/r)·A B; a tree like `base`.

  Raises:
    ValueError: an adapter of a path that `base` does not have.
  """
  unknown = sorted(set(adapters) - set(_named(base)))
  if unknown:
    raise ValueError(
      f'adapters of {", ".join(unknown)}, which the base does not have: give the'
      ' base that they were made for'
    )

  def merged(path, leaf):
    pair = adapters.get(_name(path))
    if pair is None:
      return leaf
    product = jnp.matmul(pair['a'], pair['b'], precision='highest')
    return leaf + alpha / pair['b'].shape[-2] * product.reshape(leaf.shape)

  return jax.tree_util.tree_map_with_path(merged, base)


def off(adapters: Adapters) -> Adapters:
  """The same adapters with b = 0: they change nothing, the model is its base.

  With a leading axis of members or checkpoints as well.
  """
  return {
    name: {**pair, 'b': jnp.zeros_like(pair['b'])}
    for name, pair in adapters.items()
  }


def adapted(problem: Problem, alpha: float = 1.0) -> Problem:
  """The problem whose parameters are adapters, with the model as `frozen`.

  outputs(adapters, example, base) = `problem.outputs(merge(base, adapters,
  alpha), example)`. Runs of it have `frozen`: bases [E, ...], one for each
  member's adapters. l2 is of the adapters.

  Raises:
    ValueError: the problem has `only` or `leave_out`, which name the model's
      parameters. When it is called: the model uses a target for anything but a
      product with the whole of it.
  """
  if problem.only or problem.leave_out:
    raise ValueError(
      f'the parameters of an adapted problem are adapters, and only={problem.only}'
      f" and leave_out={problem.leave_out} name the model's own: give adapted a"
      ' problem without them, and choose by the targets of init'
    )

  def outputs(adapters: Adapters, example: PyTree, base: PyTree):
    rest = [glob.escape(n) for n in _named(base) if n not in adapters]
    plan = layers_lib.plan(problem.outputs, base, example, rest)
    shapes = {n: x.shape for n, x in _named(base).items()}
    _check(plan, adapters, shapes)
    at_site = functools.partial(_with_low_rank, plan, shapes, alpha)
    inputs = [*jax.tree.leaves(base), *jax.tree.leaves(example)]
    extra = replay.Extra(None, adapters, {})
    outs = replay.replayed(plan, inputs, extra, at_site)
    return jax.tree.unflatten(plan.structure, outs)

  return problem._replace(outputs=outputs, as_leaf=())


def _with_low_rank(plan, shapes, alpha, path, y, operands, extra):
  """y + (alpha/r) x A B for one product y = x W."""
  site, name = plan.sites[path]
  a, b = (extra.aux[name][side] for side in 'ab')
  use = _use(plan.layers[name], shapes[name])
  assert use is not None  # by `_check`
  order, transposed = use
  if transposed:  # y = x Wᵀ
    a, b = b.T, a.T
  x = site.product.rows(operands[site.operand])[0]
  if _is_reordered(
    order
  ):  # the entries of a patch, in the order of the rows of a
    x = x[:, np.argsort(order)]
  inner = a[x] if site.product.kind == 'embed' else x @ a
  low_rank = alpha / a.shape[1] * (inner @ b)
  back = jax.linear_transpose(site.product.columns, y)
  return y + back(low_rank[None].astype(y.dtype))[0]


def _check(plan, adapters, shapes):
  """Raises ValueError unless the model uses each matrix whole in all products."""
  for name in adapters:
    layer = plan.layers.get(name)
    use = layer and _use(layer, shapes[name])
    if not use or (layer.kind == 'embed' and _is_reordered(use[0])):
      raise ValueError(
        f'the model does not use {name} as one whole matrix of a product, which'
        ' an adapter needs: leave it out of targets, and see'
        ' tda_jax.layers.find.find for what the model does with it'
      )


def _use(layer, shape):
  """How a product uses one matrix of a leaf; see `_row_order`.

  None if it is no product; if the matrix is one of several that it uses at once,
  as attention's heads or experts; or if the leaf is rearranged before it is
  scanned, for adapters are scanned as they are.
  """
  scans = layer.scans
  as_scanned = all(lead == scans for lead, _ in layer.steps)
  if layer.kind == 'leaf' or not as_scanned:
    return None
  if scans != (len(shape) == 3):
    return None  # `init` took the leaf for something else
  return _row_order(tuple((0, step) for _, step in layer.steps), shape[scans:])


def _row_order(steps, shape):
  """How a product uses a leaf [.., O] with I·O entries after `steps`.

  Returns:
    (order [I], False) if it takes the leaf's rows in this order; (0..I − 1, True)
    if it takes the transposed matrix; None in all other cases.
  """
  rows, columns = math.prod(shape[:-1]), shape[-1]
  if not steps:
    return np.arange(rows), False
  whole = np.arange(rows * columns).reshape(rows, columns)
  taken = walk.apply_steps(steps, whole.reshape(shape))
  if np.array_equal(taken, whole.T) and rows > 1:
    return np.arange(rows), True
  order = taken.reshape(len(taken), -1)[:, 0] // columns
  if np.array_equal(taken, whole[order]):
    return order, False
  return None


def _is_reordered(order):
  return (order[1:] < order[:-1]).any()


def _named(params):
  pairs = jax.tree_util.tree_leaves_with_path(params)
  return {_name(path): leaf for path, leaf in pairs}


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
