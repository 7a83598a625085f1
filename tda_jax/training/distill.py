"""Distillation: a student learns from a teacher's logits beside the labels.

The rows carry the logits, {'x', 'y', 'teacher': [K]}, so that a student needs
to ask its teacher once only.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem

PyTree = Any

DIRECTIONS = ('teacher||student', 'student||teacher')
AT_ONCE = 512


def distilled(
  problem: Problem,
  alpha: float,
  temperature: float = 2.0,
  direction: str = 'teacher||student',
) -> Problem:
  """The problem with loss α·T²·KL + (1 − α)·loss; the measure stays.

  KL compares t = softmax(teacher/T) with p = softmax(outputs/T):
  Σ_k t_k log(t_k/p_k) for 'teacher||student' (Hinton et al. 2015), its
  arguments exchanged for 'student||teacher'.

  No draw of labels alone has the curvature of this loss as its Fisher. `sample`
  draws the loss's gradient in the outputs instead, √α (p − e_t) + √(1 − α)
  ∂loss, with t ~ p and the problem's own draw, and the loss of a drawn row is
  linear in it: its Fisher is the GGN of 'teacher||student'. (The other
  direction is not convex in the outputs, and has the same curvature where the
  student is its teacher.)

  Args:
    problem: classification; its loss is the second term.
    alpha: from 0 (the problem's own loss) to 1 (the teacher only).
    temperature: T.
    direction: the order of KL's arguments.

  Raises:
    ValueError: alpha or temperature out of range, unknown direction; rows
      without 'teacher' where they are used.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha={alpha}: give a weight from 0 to 1')
  if not temperature > 0:
    raise ValueError(f'temperature={temperature}: give a number above 0')
  if direction not in DIRECTIONS:
    raise ValueError(
      f'direction={direction!r} is unknown: use one of {DIRECTIONS}'
    )

  def loss(outputs, example):
    if 'gradient' in example:  # drawn by `sample`
      return jnp.vdot(example['gradient'], outputs)
    teacher, student = (
      jax.nn.log_softmax(logits / temperature)
      for logits in (_teacher(example), outputs)
    )
    p, q = (teacher, student) if direction == DIRECTIONS[0] else (
      student, teacher
    )  # fmt: skip
    apart = jnp.sum(jnp.exp(p) * (p - q))
    own = problem.loss(outputs, example)
    return alpha * temperature**2 * apart + (1 - alpha) * own

  def sample(key, outputs, example):
    own, soft = jax.random.split(key)
    drawn = problem.sample(own, outputs, example)
    label = jax.random.categorical(soft, outputs / temperature)
    apart = jax.nn.softmax(outputs / temperature)
    apart = apart - jax.nn.one_hot(label, outputs.shape[-1])
    gradient = jax.grad(problem.loss)(outputs, drawn)
    gradient = alpha**0.5 * apart + (1 - alpha) ** 0.5 * gradient
    return {**drawn, 'gradient': gradient}

  def check(shape, rows):
    problem.check(shape, rows)
    if 'teacher' in rows and rows['teacher'].shape[1:] != shape:
      raise ValueError(
        f'the teacher gives {rows["teacher"].shape[1:]} logits a row and the'
        f' student {shape}: distil between models of the same classes'
      )

  # `reads` stays: queries, which have a measure and no loss, need no teacher.
  return problem._replace(loss=loss, sample=sample, check=check)


def with_teacher(problem: Problem, params: PyTree, rows: PyTree) -> PyTree:
  """The rows with the outputs of a trained model as 'teacher', [N, K]."""
  outputs = jax.jit(
    lambda params, rows: jax.lax.map(
      lambda row: problem.outputs(params, row),
      rows,
      batch_size=min(AT_ONCE, rows_lib.count(rows)),
    )
  )
  rows = jax.tree.map(jnp.asarray, rows)
  return {
    **jax.device_get(rows),
    'teacher': jax.device_get(outputs(params, rows)),
  }


def _teacher(example):
  if 'teacher' not in example:
    raise ValueError(
      "a distilled loss needs rows with the teacher's logits: add them by"
      ' with_teacher(problem, params of the teacher, rows)'
    )
  return example['teacher']
