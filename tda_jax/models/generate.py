"""Texts continued by a decoder, token by token."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import given as given_lib
from tda_jax.models import decoder
from tda_jax.models.decoder import Sizes
from tda_jax.trees import Array, PyTree


class _State(NamedTuple):
  """What a step hands to the next."""

  step: jax.Array
  logits: jax.Array  # [B, V], of the token to come
  cache: PyTree
  ended: jax.Array  # [B]
  added: jax.Array  # [B, steps]


def generate(
  sizes: Sizes,
  params: PyTree,
  prompts: Array | Sequence[Sequence[int]],
  steps: int,
  *,
  lengths: Array | None = None,
  key: jax.Array | None = None,
  temperature: float = 0.0,
  end: int | None = None,
) -> np.ndarray:
  """Ids [B, steps] that follow the prompts, the prompts left out.

  Keys and values of a row are computed once and kept; a token goes to the slot of
  its position, over the padding, so that rows of all lengths are one program. It
  is compiled for each shape of prompts and number of steps.

  Args:
    sizes, params: of the model.
    prompts: lists of ids, which are padded here; or an array [B, P], padded on
      the right.
    steps: the most tokens to add.
    lengths: [B], of the array's prompts without padding; None: P.
    key: of the draws; row i draws with its own, so it does not depend on the
      rows beside it.
    temperature: 0: the most likely token; above: a draw from the softmax of the
      logits over it.
    end: id of the end of a text; from there on a row has only it, and nothing is
      computed once all rows have ended.

  Raises:
    ValueError: no prompt, or an empty one; ids that are no whole numbers; lengths
      that do not fit; an id that the model does not have; a temperature without a
      key, or below 0; prompt and steps are longer than the model's context; the
      parameters are of blocks apart where `sizes` scans them, or the reverse.
  """
  _check(sizes, params, steps, end)
  ids, lengths = _padded(prompts, lengths)
  if lengths.shape != ids.shape[:1]:
    raise ValueError(
      f'{lengths.size} lengths for {len(ids)} prompts: give one for each'
    )
  if not (np.all(lengths > 0) and np.all(lengths <= ids.shape[1])):
    raise ValueError(
      f'lengths of prompts are {lengths.min()} to {lengths.max()} of'
      f' {ids.shape[1]} ids: give at least one id a row, and lengths that the'
      ' array has'
    )
  real = np.arange(ids.shape[1]) < lengths[:, None]
  given = ids[real]
  if (wrong := (given < 0) | (given >= sizes.vocabulary)).any():
    raise ValueError(
      f'the prompts have the id {given[wrong][0]}, and the model has ids 0 to'
      f' {sizes.vocabulary - 1}: use the tokenizer that it was trained with'
    )
  if temperature < 0 or (temperature > 0 and key is None):
    raise ValueError(
      f'temperature={temperature} {"is below 0" if temperature < 0 else "draws"}:'
      ' give 0 for the most likely token, or a number above 0 and a key'
    )
  key = jax.random.key(0) if key is None else given_lib.as_key(key)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(ids)))
  out = _generated(
    sizes,
    params,
    jnp.where(real, ids, 0),  # padding may be no id, as −100
    jnp.asarray(lengths),
    keys,
    jnp.float32(temperature or 1),
    steps=steps,
    greedy=temperature == 0,
    end=-1 if end is None else end,
  )
  return np.asarray(out)


def _check(sizes, params, steps, end):
  """Raises ValueError for what no prompt can be continued with."""
  if not isinstance(steps, int | np.integer) or steps < 1:
    raise ValueError(f'steps={steps}: give at least 1, a whole number')
  if end is not None and not 0 <= end < sizes.vocabulary:
    raise ValueError(
      f'end={end} is no id of the model, whose are 0 to {sizes.vocabulary - 1}:'
      ' give the id at which its texts end, or None'
    )
  decoder.check_form(sizes, params)


def _padded(prompts, lengths) -> tuple[np.ndarray, np.ndarray]:
  """(ids [B, P], lengths [B]) of lists or an array."""
  if isinstance(prompts, np.ndarray | jax.Array):
    if prompts.ndim != 2 or not _whole(prompts):
      raise ValueError(
        f'prompts are {prompts.dtype}{list(prompts.shape)}: give ids [B, P], whole'
        ' numbers'
      )
    ids = np.asarray(prompts, np.int32)
    if lengths is None:
      return ids, np.full(len(ids), ids.shape[1], np.int32)
    return ids, np.asarray(lengths, np.int32)
  if lengths is not None:
    raise ValueError(
      'lists of ids have their own lengths: give lengths= with an array only'
    )
  if not len(prompts):
    raise ValueError('there is no prompt: give at least one list of ids')
  for i, prompt in enumerate(prompts):
    whole = (
      not isinstance(prompt, str) and np.asarray(prompt).dtype.kind in 'iu'
    )
    if len(prompt) and not whole:
      raise ValueError(
        f'prompt {i} is no list of ids: give those of its tokens, whole numbers, as'
        ' the tokenizer of the model returns them'
      )
  lengths = np.array([len(row) for row in prompts], np.int32)
  ids = np.zeros((len(lengths), max(lengths, default=0)), np.int32)
  for row, prompt in zip(ids, prompts, strict=True):
    row[: len(prompt)] = prompt
  return ids, lengths


def _whole(ids) -> bool:
  """Whether they are whole numbers; none are."""
  ids = np.asarray(ids)
  return not ids.size or bool(
    ids.dtype.kind in 'iuf' and (ids == np.round(ids)).all()
  )


@functools.partial(jax.jit, static_argnames=('sizes', 'steps', 'greedy', 'end'))
def _generated(
  sizes: Sizes,
  params: PyTree,
  ids: jax.Array,
  lengths: jax.Array,
  keys: jax.Array,
  temperature: jax.Array,
  *,
  steps: int,
  greedy: bool,
  end: int,
) -> Any:
  rows, width = ids.shape
  cache = decoder.empty(sizes, rows, width + steps)
  order = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), ids.shape)
  last = lengths - 1
  logits, cache = decoder.continued(sizes, params, ids, order, cache, last)

  def drawn(logits, step):
    if greedy:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    ids = jax.vmap(jax.random.categorical)(own, logits / temperature)
    return ids.astype(jnp.int32)

  def step(s):
    new = jnp.where(s.ended, end, drawn(s.logits, s.step))
    added = s.added.at[:, s.step].set(new)
    at = (lengths + s.step)[:, None]
    logits, cache = decoder.continued(sizes, params, new[:, None], at, s.cache)
    ended = s.ended | (new == end)
    return _State(s.step + 1, logits[:, 0], cache, ended, added)

  going = lambda s: (s.step < steps) & ~jnp.all(s.ended)
  begun = _State(
    jnp.int32(0),
    logits[:, 0],
    cache,
    jnp.zeros(rows, bool),
    jnp.full((rows, steps), end, jnp.int32),
  )
  return jax.lax.while_loop(going, step, begun).added
