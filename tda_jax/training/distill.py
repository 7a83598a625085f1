"""Distillation: a student learns from a teacher's logits and the labels.

The rows hold the logits, {'x', 'y', 'teacher': [K]}, so that the teacher is
evaluated only once.

Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural
Network", https://arxiv.org/abs/1503.02531
"""

import jax
import jax.numpy as jnp

from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem
from tda_jax.trees import PyTree

DIRECTIONS = ('teacher||student', 'student||teacher')
AT_ONCE = 512


def distilled(
  problem: Problem,
  alpha: float,
  temperature: float = 2.0,
  direction: str = 'teacher||student',
) -> Problem:
  """The problem with loss α·T²·KL + (1 − α)·loss and the same measure.

  KL compares t = softmax(teacher/T) with p = softmax(outputs/T):
  Σ_k t_k log(t_k/p_k) for 'teacher||student' (Hinton et al. 2015), with the
  arguments exchanged for 'student||teacher'.

  No way of drawing labels has the curvature of this loss as its Fisher. So
  `sample` draws the gradient of the loss in the outputs instead, √α (p − e_t) +
  √(1 − α) ∂loss, with t ~ p and ∂loss of labels that the problem draws. The loss
  of a drawn row is linear in that gradient, and its Fisher is the GGN of
  'teacher||student'. (The other direction is not convex in the outputs, and has
  the same curvature where the student equals its teacher.)

  Args:
    problem: of classification; its loss is the second term.
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
    p, q = (
      (teacher, student) if direction == DIRECTIONS[0] else (student, teacher)
    )
    divergence = jnp.sum(jnp.exp(p) * (p - q))
    label_loss = problem.loss(outputs, example)
    return alpha * temperature**2 * divergence + (1 - alpha) * label_loss

  def sample(key, outputs, example):
    label_key, teacher_key = jax.random.split(key)
    drawn = problem.sample(label_key, outputs, example)
    label = jax.random.categorical(teacher_key, outputs / temperature)
    teacher_gradient = jax.nn.softmax(outputs / temperature)
    teacher_gradient = teacher_gradient - jax.nn.one_hot(
      label, outputs.shape[-1]
    )
    gradient = jax.grad(problem.loss)(outputs, drawn)
    gradient = alpha**0.5 * teacher_gradient + (1 - alpha) ** 0.5 * gradient
    return {**drawn, 'gradient': gradient}

  def check(shape, rows):
    problem.check(shape, rows)
    if 'teacher' in rows and rows['teacher'].shape[1:] != shape:
      raise ValueError(
        f'the teacher gives {rows["teacher"].shape[1:]} logits a row and the'
        f' student {shape}: distil between models of the same classes'
      )

  # `reads` stays as it is: queries need a measure only, and so no teacher.
  return problem._replace(loss=loss, sample=sample, check=check)


def with_teacher(problem: Problem, params: PyTree, rows: PyTree) -> PyTree:
  """The rows with a column 'teacher', the outputs of a trained model, [N, K]."""
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
