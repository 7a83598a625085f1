"""Representer points: a layer's output as a sum over the training rows."""

from tda_jax.curvature import gram
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.methods.gradients import dots, factors_of, self_products
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept


@kept
def representer(l2: float | None = None, layer: str | None = None) -> Method:
  """score[i, q] = ∂measure_q/∂y_q · α_i (a_i · a_q), α_i = −(1/(l2·N)) ∂loss_i/∂y.

  Yeh et al. 2018, Theorem 3.1, https://arxiv.org/abs/1811.09720, whose λ is l2/2. Where the gradient of the
  objective in the layer's matrix W is zero, l2·W = −(1/N) Σ_i a_i (∂loss_i/∂y)ᵀ,
  so that the layer's output at a query is y_q = Σ_i α_i (a_i · a_q). The score
  is row i's term in it, in the measure's unit (to first order in y).

  We assume, and do not check, that training ended at a stationary point of the
  objective with this l2 on the layer, its bias included. (The paper trains the
  layer on until that is so.) Elsewhere the scores are the same up to a factor,
  but the terms do not add up to y_q.

  Args:
    l2: coefficient of ½‖W‖²; None: the problem's.
    layer: its name; None: the last dense layer that the model applies.

  Raises:
    ValueError: no l2; no such layer.
  """

  def layer_and_share(problem, params, train):
    """(name of the layer, 1 / (l2 N))."""
    strength = problem.l2 if l2 is None else l2
    if not strength > 0:
      raise ValueError(
        f'representer divides by l2={strength}, with which the layer was'
        ' regularised: give representer(l2=...) a number above 0'
      )
    example = rows_lib.take(train, 0)
    layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
    return layers_lib.dense(layers, layer), 1 / (
      strength * rows_lib.count(train)
    )

  def prepare(problem, run, train, queries, key):
    del key
    name, share = layer_and_share(problem, run.params, train)
    factors = factors_of(problem, run.params, queries)
    return Prepared(({name: factors[name]}, share))

  def score(problem, run, prepared, batch):
    factors, share = prepared.state
    (name,) = factors
    return -share * dots(problem, run.params, batch, factors, only=name)

  def self_influence(problem, run, train, key):
    del key
    name, share = layer_and_share(problem, run.params, train)

    def of_one_layer(layers, *factors):
      return gram.row_products(
        {name: layers[name]}, *({name: f[name]} for f in factors)
      )

    return -share * self_products(problem, run.params, train, of_one_layer)

  return Method(prepare, score, self_influence=self_influence)
