"""The problem: what a user gives, as pure functions of ONE example."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, labels, shapes
from tda_jax.trees import PyTree, widened


class Problem(NamedTuple):
  """A model, its loss and what queries measure, for one example.

  The objective is L(θ) = (1/N) Σ_i loss_i(θ) + ½·l2·‖θ‖².

  Attributes:
    outputs: (params, example) -> [..., K]; or (params, example, frozen), for
      models that have more than their trained parameters, for example a dropout
      mask (see `bound`).
    loss: (outputs, example) -> scalar, summed over the example's own terms.
    measure: (outputs, example) -> scalar a query is asked about; higher is
      better.
    sample: (key, outputs, example) -> example with labels drawn from the model
      (the likelihood whose negative logarithm `loss` is).
    check: (outputs shape, rows) -> None; raises ValueError on rows whose labels
      do not fit the outputs, or outputs that do not fit the loss.
    l2: coefficient of ½‖θ‖² in the objective; l2·I belongs to the curvature.
    as_leaf: patterns of parameter names to hold as diagonal blocks, where
      `layers.find` asks for it.
    leave_out: patterns of the names of parameters that no row is scored by:
      to methods they are constants (`chosen`). Training trains them.
    only: patterns of those that rows are scored by; empty: all.
    reads: columns that outputs, loss and measure read; None: not known.
    terms: (outputs, example) -> the terms of the loss, an array whose sum it is,
      for example one of each token; None: it is one number.
  """

  outputs: Callable
  loss: Callable
  measure: Callable
  sample: Callable
  check: Callable
  l2: float = 0.0
  as_leaf: tuple[str, ...] = ()
  leave_out: tuple[str, ...] = ()
  only: tuple[str, ...] = ()
  reads: tuple[str, ...] | None = None
  terms: Callable | None = None


# --- ready problems ---------------------------------------------------------


def classification(apply: Callable, l2: float = 0.0, **options: Any) -> Problem:
  """Softmax classification of examples {'x': [...], 'y': class number}.

  loss = −log p_y; measure = the margin log p_y − log(1 − p_y) (Park et al.
  2023, TRAK, §3, https://arxiv.org/abs/2303.14186); labels are sampled from
  softmax(outputs).

  Args:
    apply: (params, x [B, ...]) -> logits [B, K], K ≥ 2, each row depending on
      its own example only; (params, x, key) for a model with dropout, as those
      of `models`.
    l2: see `Problem`.
    options: `inputs`, `as_leaf`, `leave_out`, `only`; see `ready`.
  """

  def loss(outputs, example):
    return -jax.nn.log_softmax(outputs)[_number_of(example)]

  def measure(outputs, example):
    """The margin of the label: its log-odds log p − log(1 − p), in nats."""
    y = _number_of(example)
    is_label = jnp.arange(outputs.shape[-1]) == y
    return outputs[y] - jax.nn.logsumexp(outputs, where=~is_label)

  def sample(key, outputs, example):
    return {**example, 'y': jax.random.categorical(key, outputs)}

  return ready(
    apply, loss, measure, sample, labels.check_classes, l2, **options
  )


def binary(apply: Callable, l2: float = 0.0, **options: Any) -> Problem:
  """Logistic regression of examples {'x': [...], 'y': 0 or 1}, one logit z.

  loss = −log p_y, p_1 = σ(z); measure = the margin log p_y − log(1 − p_y),
  which is z for y = 1 and −z for y = 0; labels are sampled from σ(z). The same
  loss, measure and scores as `classification` of the logits (0, z).

  Args:
    apply: (params, x [B, ...]) -> logits [B] or [B, 1]; see `classification`.
    l2: see `Problem`.
    options: `inputs`, `as_leaf`, `leave_out`, `only`; see `ready`.
  """

  def measure(outputs, example):
    """The margin of the label: its log-odds log p − log(1 − p), in nats."""
    return jnp.sum(_label_log_odds(outputs, example))

  loss = lambda outputs, example: jax.nn.softplus(-measure(outputs, example))

  def sample(key, outputs, example):
    one = jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).reshape(())
    return {**example, 'y': one.astype(jnp.int32)}

  return ready(apply, loss, measure, sample, labels.check_two, l2, **options)


def multilabel(apply: Callable, l2: float = 0.0, **options: Any) -> Problem:
  """K labels of 0 or 1 that are independent given x: {'x': [...], 'y': [K]}.

  loss = Σ_k −log p_k, p_k the probability σ(±z_k) of the example's k-th label;
  measure = the margin log P − log(1 − P) of the whole row of labels, P = Π_k
  p_k. For K = 1 it is that of `binary`. Like there it is a function of the loss,
  so that TRAK applies. It follows the label that the model is least sure of, as
  the margin of a class follows its nearest rival. Labels are sampled from σ(z).

  Args:
    apply: (params, x [B, ...]) -> logits [B, K]; see `classification`.
    l2: see `Problem`.
    options: `inputs`, `as_leaf`, `leave_out`, `only`; see `ready`.
  """

  def terms(outputs, example):
    return jax.nn.softplus(-_label_log_odds(outputs, example))

  def measure(outputs, example):
    """The margin of all labels together: log P − log(1 − P), in nats."""
    against = -_label_log_odds(outputs, example)
    cost = jnp.sum(jax.nn.softplus(against))
    tiny = cost < 1e-12  # then exp(cost) − 1 is Σ_k exp(−z_k) to rounding
    safe = jnp.where(tiny, 1.0, cost)
    wide = safe + jnp.log(-jnp.expm1(-safe))  # log(exp(cost) − 1)
    return -jnp.where(tiny, jax.nn.logsumexp(against), wide)

  def sample(key, outputs, example):
    ones = jax.random.bernoulli(key, jax.nn.sigmoid(outputs))
    return {**example, 'y': ones.astype(jnp.int32)}

  return ready(
    apply,
    _sum_of(terms),
    measure,
    sample,
    labels.check_many,
    l2,
    terms=terms,
    **options,
  )


def regression(apply: Callable, l2: float = 0.0, **options: Any) -> Problem:
  """Least squares on examples {'x': [...], 'y': number or [K]}.

  loss = Σ_k (output_k − y_k)², the negative logarithm (up to a constant) of a
  Gaussian of variance ½, from which labels are sampled; measure = −Σ_k
  |output_k − y_k|.

  Args:
    apply: (params, x [B, ...]) -> predictions [B] or [B, K]; see
      `classification`.
    l2: see `Problem`.
    options: `inputs`, `as_leaf`, `leave_out`, `only`; see `ready`.
  """

  def error(outputs, example):
    y = jnp.reshape(example['y'], outputs.shape)
    if not jnp.issubdtype(y.dtype, jnp.floating):
      y = y.astype(outputs.dtype)
    return outputs - y

  terms = lambda outputs, example: error(outputs, example) ** 2

  def measure(outputs, example):
    """Minus the absolute error, in the unit that the model predicts in."""
    return -jnp.sum(jnp.abs(error(outputs, example)))

  def sample(key, outputs, example):
    noise = jnp.sqrt(0.5) * jax.random.normal(key, outputs.shape, outputs.dtype)
    drawn = jnp.reshape(outputs + noise, jnp.shape(example['y']))
    return {**example, 'y': drawn}

  return ready(
    apply,
    _sum_of(terms),
    measure,
    sample,
    labels.check_numbers,
    l2,
    terms=terms,
    **options,
  )


def ready(
  apply: Callable,
  loss: Callable,
  measure: Callable,
  sample: Callable,
  check: Callable,
  l2: float,
  *,
  inputs: str | Sequence[str] = ('x',),
  as_leaf: str | Sequence[str] = (),
  leave_out: str | Sequence[str] = (),
  only: str | Sequence[str] = (),
  labelled: tuple[str, ...] = ('y',),
  pairs: bool = False,
  terms: Callable | None = None,
) -> Problem:
  """The problem of a model that takes batches, with labels 'y'.

  Args:
    apply: (params, *inputs [B, ...]) -> outputs [B, ...]; with dropout, the
      key of a mask comes after the inputs.
    loss, measure, sample, check, l2: see `Problem`.
    inputs: the columns of the rows that `apply` is given, in its order; a mask
      is one of them: `inputs=('ids', 'mask')`.
    as_leaf, leave_out, only: names of parameters, or patterns (`'*/kernel'`);
      see `Problem`.
    labelled: the columns that loss and measure read.
    pairs: whether an example may be two rows, with columns [2, T], whose outputs
      are [2, ...].
    terms: see `Problem`.
  """
  inputs, as_leaf, leave_out, only = map(
    _tuple, (inputs, as_leaf, leave_out, only)
  )
  if getattr(l2, 'ndim', None) == 0:
    l2 = float(l2)  # programs are known by it, which an array cannot be
  return Problem(
    _outputs_of_one(apply, inputs, pairs),
    loss,
    measure,
    sample,
    check,
    l2,
    as_leaf,
    leave_out,
    only,
    reads=(*inputs, *labelled),
    terms=terms,
  )


def _sum_of(terms):
  return lambda outputs, example: jnp.sum(terms(outputs, example))


def _tuple(names):
  names = (names,) if isinstance(names, str) else names
  if isinstance(names, (tuple, list)):
    if all(isinstance(name, str) for name in names):
      return tuple(names)
  raise ValueError(
    f'inputs, as_leaf, leave_out and only are names, and {names!r} is given: give'
    " a string, or a tuple of strings, for example ('w', 'b')"
  )


def _outputs_of_one(apply, inputs, pairs):
  """The outputs of one example: runs the model on a batch of one, or of a pair.

  The key of a dropout mask is the leaf 'dropout' of the example or the last
  argument. The example's own key takes precedence; it exists only in training.
  """

  def outputs(params, example, *frozen):
    given = [labels.column(example, n) for n in inputs]
    pair = pairs and jnp.ndim(given[0]) == 2
    if pair:
      _check_pair(inputs, given)
    batch = given if pair else jax.tree.map(lambda v: v[None], given)
    drawn = 'dropout' in example and 'dropout' not in inputs
    key = (example['dropout'],) if drawn else frozen
    batch_outputs = apply(params, *batch, *key)
    shape = getattr(batch_outputs, 'shape', None)
    if shape is None:
      hint = ', its .logits' if hasattr(batch_outputs, 'logits') else ''
      raise ValueError(
        f'apply gave a {type(batch_outputs).__name__} for a batch of one example: return'
        f' one array of outputs, [B, ...]{hint}'
      )
    if shape[:1] != ((2,) if pair else (1,)):
      raise ValueError(
        f'apply gave outputs of shape {list(shape)} for a batch of'
        f' {"two rows" if pair else "one example"}: it is given inputs with a batch'
        f' axis, {inputs[0]} [B, ...], and must return one row of outputs for each,'
        ' [B, ...]'
      )
    return batch_outputs if pair else batch_outputs[0]

  # An attribute of the function: a problem with other outputs does not have it.
  outputs.together = _outputs_of_batch(apply, inputs, pairs)
  return outputs


def _check_pair(names, columns):
  """Raises `shapes.Refused` unless all inputs are those of two rows."""
  first, *others = map(jnp.shape, columns)
  for name, shape in zip(names[1:], others, strict=True):
    if shape[:1] != first[:1]:
      raise shapes.Refused(
        f'column {names[0]!r} has two rows an example, {list(first)}, which are a'
        f' contrast, and column {name!r} has {list(shape)}: give every input of'
        ' the two, [N, 2, ...], as sequences.contrasts(..., places=True) does'
      )


def _outputs_of_batch(apply, inputs, pairs):
  """(params, examples, frozen) -> outputs of a batch, [B, ...].

  Used to check that the rows of a batch do not depend on each other.
  """

  def together(params, examples, frozen):
    given = [labels.column(examples, name) for name in inputs]
    more = () if frozen is None else (frozen,)
    if not pairs or jnp.ndim(given[0]) == 2:
      return apply(params, *given, *more)
    size = len(given[0])
    flat = [jnp.reshape(v, (2 * size, *v.shape[2:])) for v in given]
    outputs = apply(params, *flat, *more)
    return jnp.reshape(outputs, (size, 2, *outputs.shape[1:]))

  return together


def _number_of(example):
  """The class, also where it is kept as a whole float or a bool."""
  return jnp.asarray(example['y']).astype(jnp.int32)


def _label_log_odds(outputs, example):
  """The log-odds of the example's labels of 0 or 1, shaped like outputs."""
  return jnp.where(
    jnp.reshape(example['y'], outputs.shape) == 1, outputs, -outputs
  )


# --- evaluation ------------------------------------------------------------


def bound(problem: Problem, frozen: PyTree) -> Problem:
  """The problem with `frozen` filled in; its outputs take no third argument.

  Args:
    frozen: what the model has besides its trained parameters; None: nothing, so
      that the problem is returned as it is.
  """
  if frozen is None:
    return problem
  return problem._replace(
    outputs=lambda params, example: problem.outputs(params, example, frozen)
  )


def check(
  problem: Problem, params: PyTree, rows: PyTree, function: str = 'loss'
) -> None:
  """Raises ValueError if rows, model and problem do not fit each other.

  Nothing is computed: labels are read, and the model is evaluated on the shapes
  of one example.

  Args:
    function: which function the rows must have: 'loss' (rows to learn from) or
      'measure' (queries).
  """
  chosen.split(problem, params)
  example = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, rows)
  shape = outputs_shape(problem, params, example)
  problem.check(shape, rows)
  shapes.of(_evaluator(problem, function), f'the {function}', params, example)


@functools.lru_cache(64)
def _evaluator(problem, function):
  """(params, example) -> loss or measure; cached: one function a problem."""
  evaluate = {'loss': loss_of, 'measure': measure_of}[function]
  return lambda params, example: evaluate(problem, params, example)


def outputs_shape(
  problem: Problem, params: PyTree, example: PyTree
) -> tuple[int, ...]:
  """Shape of the outputs of one example.

  Raises:
    ValueError: the model raised, saying what and what it was given; its outputs
      are not one array of real numbers.
  """
  outputs = shapes.of(problem.outputs, 'the model', params, example)
  if not isinstance(outputs, jax.ShapeDtypeStruct):
    raise ValueError(
      f'the outputs of one example are a {type(outputs).__name__}: return one'
      ' array'
    )
  if not jnp.issubdtype(outputs.dtype, jnp.floating):
    raise ValueError(
      f'the outputs of one example are {outputs.dtype}{list(outputs.shape)}: return'
      ' real numbers, for example logits, that have a derivative'
    )
  return outputs.shape


def num_outputs(problem: Problem, params: PyTree, example: PyTree) -> int:
  """K, the number of model outputs of one example."""
  return math.prod(jax.eval_shape(problem.outputs, params, example).shape)


def losses(problem: Problem, params: PyTree, examples: PyTree) -> jax.Array:
  """The loss of each example, [B]."""
  one = lambda example: loss_of(problem, params, example)
  return jax.vmap(one)(examples)


def measures(problem: Problem, params: PyTree, examples: PyTree) -> jax.Array:
  """The measure of each example, [B]."""
  one = lambda example: measure_of(problem, params, example)
  return jax.vmap(one)(examples)


def terms(problem: Problem, params: PyTree, examples: PyTree) -> jax.Array:
  """The terms of the loss of each example, [B, ...], whose sum over all but B it is.

  Raises:
    ValueError: the problem has none.
  """
  of_loss = problem.terms
  if of_loss is None:
    raise ValueError(
      'the loss of this problem is one number: give its terms, for example those of'
      ' tokens, as problem._replace(terms=...)'
    )

  def one(example):
    return of_loss(widened(problem.outputs(params, example)), example)

  return jax.vmap(one)(examples)


def loss_of(problem: Problem, params: PyTree, example: PyTree) -> jax.Array:
  """The loss of one example, a scalar.

  Raises:
    ValueError: it is not one number.
  """
  outputs = widened(problem.outputs(params, example))
  return _number(problem.loss(outputs, example), 'loss')


def measure_of(problem: Problem, params: PyTree, example: PyTree) -> jax.Array:
  """The measure of one example, a scalar.

  Raises:
    ValueError: it is not one number.
  """
  outputs = widened(problem.outputs(params, example))
  return _number(problem.measure(outputs, example), 'measure')


def _number(value, what):
  if jnp.shape(value) != ():
    raise ValueError(
      f'the {what} of one example has shape {list(jnp.shape(value))} and must be'
      ' one number: sum it, or give labels without an axis of their own, [N] and'
      ' not [N, 1]'
    )
  return value
