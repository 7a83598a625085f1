"""Stage 2: scores all pairs with the methods of a config.

`--config.method=NAME,...` takes some of config.methods, or a kind of
experiments.methods; `--config.ensemble=dropout:10` and the like make several
members of each model (experiments.ensembles). Scores are the zarr stores
<workdir>/scores/<setting>/<method>/<member>, [N, Q], positive where a row
supports a query; <method>_dropout_10 of such an ensemble. Of several models
there is also <method>/uncertainty, [N, 4, Q]: mean, standard error, p-value,
significant or not.
"""

import pathlib

from experiments import dampings, ensembles, launch, stages, tasks


def main(config, workdir: pathlib.Path) -> None:
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  made, ending = ensembles.asked(config, task, models, workdir)
  chosen = dampings.chosen(config, task, models.runs, workdir)
  for name, settings in stages.methods_of(config).items():
    settings = dampings.resolved(settings, chosen)
    scores, of_models = ensembles.scores(
      config, name, settings, task, made, ending, workdir
    )
    name = name + ending
    folder = workdir / 'scores' / config.setting / name
    print(
      f'{name}: {folder} holds {scores.shape[0]} models x {scores.shape[1]} rows'
      f' x {scores.shape[2]} queries'
      f'{_convergence(stages.facts(config, workdir, name, len(scores)))}'
      f'{_certainty(config, workdir, name, of_models)}'
    )


def _convergence(facts) -> str:
  ends = [f['residual'][-1] for f in facts if f.get('residual')]
  if not ends:
    return ''
  share = sum(f['converged'] for f in facts) / len(facts)
  return (
    f'; relative residual {sum(ends) / len(ends):.2g}, {share:.0%} of the'
    ' queries converged'
  )


def _certainty(config, workdir, name, of_models) -> str:
  if len(of_models) < 2:
    return ''
  found = stages.uncertainty(config, workdir, name, of_models)
  return (
    f'; {found.significant.mean():.1%} of the pairs are significant (t-test over'
    f' {len(of_models)} models, 5% false discoveries)'
  )


if __name__ == '__main__':
  launch.launch(main)
