"""Converts a user's flax model to (apply, params), parameters without state.

All that is no parameter (running averages of norms, keys and counts of dropout,
caches) becomes a constant inside `apply`. The model is set to evaluation: norms
use their running averages, and dropout is off unless a key is given. The key
comes after the inputs, as `data.rows.with_dropout` and `training.ensembles.masked` pass it;
norms use their running averages then too.
"""

import inspect
from collections.abc import Callable
from typing import Any

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core as jex

from tda_jax import trees
from tda_jax.trees import PyTree

# Arguments of __call__ that switch between training and evaluation, with their
# values in evaluation.
FLAGS = {
  'train': False,
  'training': False,
  'is_training': False,
  'deterministic': True,
  'use_running_average': True,
}


def from_nnx(
  model: nnx.Module, parameters: Any = nnx.Param
) -> tuple[Callable, PyTree]:
  """(apply, params) of an nnx module, which is not modified.

  A copy is set to evaluation by `eval()`, and by arguments of `__call__` as in
  `from_linen`.

  Args:
    model: called with the inputs.
    parameters: the filter (`flax.nnx`) of the variables that are parameters.

  Returns:
    apply: (params, *inputs [B, ...]) -> outputs, or (params, *inputs, key) with
      the dropout mask of a typed key.
    params: nested dicts of arrays; `apply` takes any others like them.

  Raises:
    ValueError: no nnx module; it has no `__call__` or no parameters.
  """
  name = _checked(model, nnx.Module, 'from_nnx', 'Model(..., rngs=nnx.Rngs(0))')
  model = nnx.clone(model)
  model.eval()
  graph, variables, rest = nnx.split(model, parameters, ...)
  params = nnx.to_pure_dict(variables)
  if not jax.tree.leaves(params):
    raise ValueError(
      f'{name} has no variables that are {parameters}: give from_nnx the'
      ' filter of its parameters'
    )
  like, flags = jax.eval_shape(lambda: params), _flags(model)

  def merged(params):
    if jax.tree.structure(params) != jax.tree.structure(like):
      raise ValueError(
        f'{name} has the parameters {trees.names(like)} and was given'
        f' {trees.names(params)}: give a tree like that of from_nnx'
      )
    state = jax.tree.map(lambda x: x, variables)  # a copy: it is written to
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state, rest, copy=True)

  def apply(params: PyTree, *inputs: jax.Array) -> jax.Array:
    inputs, key = _split_key(inputs)
    if key is None:
      return merged(params)(*inputs, **flags)

    def masked(key):
      model = _with_masks(merged(params), key, flags, name)
      return model(*inputs, **_training_flags(flags))

    return _check_key_used(masked, key, name)

  return apply, params


def from_linen(module: nn.Module, variables: PyTree) -> tuple[Callable, PyTree]:
  """(apply, params) of a linen module and its variables.

  An argument of its `__call__` named in `FLAGS` gets its value of evaluation, or,
  if a key is given, of training.

  Args:
    module: called with the inputs.
    variables: as `module.init` gives them, {'params': ..., 'batch_stats': ...}.

  Returns:
    apply: (params, *inputs [B, ...]) -> outputs, or (params, *inputs, key) with
      the dropout mask of a typed key.
    params: those of the variables, as nested dicts.

  Raises:
    ValueError: no linen module; it has no `__call__`; variables without 'params'.
  """
  name = _checked(module, nn.Module, 'from_linen', 'Model()')
  if not isinstance(variables, dict | flax.core.FrozenDict) or (
    not jax.tree.leaves(dict(variables).get('params'))
  ):
    raise ValueError(
      f"from_linen takes the variables of {name}, {{'params': ..., ...}}, with"
      ' one parameter at least: give what its init returns'
    )
  variables = flax.core.unfreeze(nn.meta.unbox(variables))
  params = variables.pop('params')
  flags = _flags(module)

  def run(params, inputs, flags, rngs) -> Any:
    try:
      with nn.intercept_methods(_running_averages):
        all_variables = {**variables, 'params': params}
        return module.apply(all_variables, *inputs, **flags, rngs=rngs)
    except flax.errors.InvalidRngError as error:
      raise ValueError(
        f'{name} draws random numbers in evaluation: let its __call__ turn'
        f' dropout off by an argument named as one of {[*FLAGS]}'
      ) from error
    except flax.errors.FlaxError as error:
      raise ValueError(
        f'{name} cannot be applied to variables of {sorted(all_variables)}:'
        f' {str(error).splitlines()[0]}; give all that its init returns, and let'
        ' norms use their running averages'
      ) from error

  def apply(params: PyTree, *inputs: jax.Array) -> jax.Array:
    inputs, key = _split_key(inputs)
    if key is None:
      return run(params, inputs, flags, None)

    def masked(key):
      # Modules draw from 'params' if there is no stream of their own name.
      rngs = {'dropout': key, 'params': jax.random.fold_in(key, 1)}
      return run(params, inputs, _training_flags(flags), rngs)

    return _check_key_used(masked, key, name)

  return apply, params


def _checked(model, kind, function, example):
  """The model's name; raises ValueError unless it is a callable `kind`."""
  name = getattr(model, '__name__', type(model).__name__)
  if not isinstance(model, kind):
    raise ValueError(
      f'{function} takes a {kind.__module__.split(".")[1]} module, not {name} of'
      f' type {type(model).__name__}: give the model itself, {example}, or any'
      ' function apply(params, x) to tda.classification'
    )
  if not callable(model):
    raise ValueError(
      f'{name} has no __call__, which gives the outputs of a batch: write one'
    )
  return name


def _flags(model):
  """The arguments of `__call__` that set the model to evaluation."""
  taken = inspect.signature(type(model).__call__).parameters
  return {flag: value for flag, value in FLAGS.items() if flag in taken}


def _training_flags(flags):
  """The flags with dropout on and norms in evaluation."""
  return {n: n == 'use_running_average' or not v for n, v in flags.items()}


def _with_masks(model, key, flags, name):
  """The nnx model with dropout on, its masks drawn from the key."""
  layers = [x for _, x in nnx.iter_graph(model)]
  normed = any(isinstance(x, nnx.BatchNorm) for x in layers)
  if normed and {*flags} - {'deterministic'}:
    raise ValueError(
      f'the arguments {[*flags]} of {name} switch on both dropout and'
      ' normalisation by the batch, of which only the first is wanted: leave them'
      ' out, so that model.eval() and model.train() set its layers'
    )
  streams = [x for x in layers if isinstance(x, nnx.RngStream)]
  if not streams:
    raise ValueError(_no_dropout(name))
  for i, stream in enumerate(streams):
    stream_key, shape = jax.random.fold_in(key, i), stream.key[...].shape
    stream.key[...] = jax.random.split(stream_key, shape)
    stream.count[...] = jnp.zeros_like(stream.count[...])
  model.set_attributes(deterministic=False, raise_if_not_found=False)
  return model


def _split_key(inputs):
  """(the inputs, the key after them or None)."""
  last = getattr(inputs[-1], 'dtype', None) if inputs else None
  if last is not None and jnp.issubdtype(last, jax.dtypes.prng_key):
    return inputs[:-1], inputs[-1]
  return inputs, None


def _check_key_used(masked, key, name):
  """masked(key), or ValueError if the outputs do not depend on the key."""
  jaxpr, shapes = jax.make_jaxpr(masked, return_shape=True)(key)
  (variable,) = jaxpr.jaxpr.invars
  if not any(variable in equation.invars for equation in _live(jaxpr.jaxpr)):
    raise ValueError(_no_dropout(name))
  outs = jex.jaxpr_as_fun(jaxpr)(key)
  return jax.tree.unflatten(jax.tree.structure(shapes), outs)


def _live(jaxpr):
  """The equations that the outputs depend on."""
  needed = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
  for equation in reversed(jaxpr.eqns):
    if needed & set(equation.outvars):
      needed |= {v for v in equation.invars if not isinstance(v, jex.Literal)}
      yield equation


def _no_dropout(name):
  return (
    f'a dropout mask for {name}, whose outputs do not depend on its key: make'
    ' the model with a dropout rate above 0, and nnx.Dropout with rngs='
  )


def _running_averages(call, args, kwargs, context):
  """An interceptor: makes BatchNorm use its running averages in training too."""
  norm = context.module
  if not isinstance(norm, nn.BatchNorm) or context.method_name != '__call__':
    return call(*args, **kwargs)
  x, *flag = *args, kwargs.pop('use_running_average', None)
  if norm.use_running_average or flag[0]:
    return call(*args, use_running_average=flag[0], **kwargs)
  alone, variables = norm.unbind()
  alone = alone.clone(use_running_average=True)
  return alone.apply(variables, x, **kwargs)
