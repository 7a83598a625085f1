"""Stage 2: scores all pairs with the methods of a config.

`--config.method=NAME,...` takes some of config.methods, or a kind of
tda_jax.methods.registry; `--config.ensemble=dropout:10` and the like make several
members of each model (experiments.shared.ensembles). Scores are the zarr stores
<workdir>/scores/<setting>/<method>/<member>, [N, Q], positive where a row
supports a query; <method>_dropout_10 of such an ensemble. Of several models
there is also <method>/uncertainty, [N, 4, Q]: mean, standard error, p-value,
significant or not. TRAK of several members is <method>/slopes/<member>, [N, 1],
and <method>/kernel/<member>, [N, Q], whose means over members are multiplied.
"""

import pathlib

from experiments.shared import dampings, ensembles, launch, tasks
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import settings as settings_lib
from tda_jax.evaluation import factors as factors_lib
from tda_jax.evaluation import supporters

LOOKED_AT = 10  # supporters of a query


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'attribute')
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  made, ending = ensembles.of_config(config, task, models, workdir)
  chosen = dampings.chosen(config, task, models.runs, workdir)
  for name, scored in scored_lib.of(config).items():
    scored = dampings.resolved(scored, chosen)
    factors, facts = ensembles.scores(
      config, scored, task, made, ending, workdir
    )
    name = name + ending
    folder = workdir / 'scores' / config.setting / name
    rows, queries = factors[-1].shape[1:]
    print(
      f'{name}: {folder} holds {len(facts)} models x {rows} rows x {queries}'
      f' queries{_convergence(facts)}'
      f'{_certainty(config, workdir, name, factors)}'
    )


def _convergence(facts) -> str:
  ends = [f['residual'][-1] for f in facts if f.get('residual')]
  if not ends:
    return ''
  short = 1 - sum(f['converged'] for f in facts) / len(facts)
  return f'; relative residual {sum(ends) / len(ends):.2g}' + (
    f', {short:.0%} of the queries not converged' if short else ''
  )


def _certainty(config, workdir, name, factors) -> str:
  if len(factors[0]) > 1:
    scores_lib.uncertainty(config, workdir, name, factors)
  scores = factors_lib.shares(factors)
  return f'; {supporters.sentence(scores, min(LOOKED_AT, scores.shape[1]))}'


if __name__ == '__main__':
  launch.launch(main)
