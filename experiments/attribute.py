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
  runs = stages.train(config, task, workdir)
  kind, count = ensembles.named(config.get('ensemble', 'naive'))
  made = ensembles.make(
    kind, count, config, task, ensembles.bare(task, runs), workdir
  )
  own = '' if kind == 'naive' else f'_{kind}_{count}'
  chosen = dampings.chosen(config, task, runs, workdir)
  for name, settings in stages.methods_of(config).items():
    settings = dampings.resolved(settings, chosen)
    if 'members' in settings:  # of models: all variants of each
      settings['members'] *= made.variants
    name = name + own
    scores = stages.scores(
      config,
      name,
      settings,
      task._replace(problem=made.problem),
      made.runs,
      workdir,
    )
    folder = workdir / 'scores' / config.setting / name
    print(
      f'{name}: {folder} holds {scores.shape[0]} models x {scores.shape[1]} rows'
      f' x {scores.shape[2]} queries'
      f'{_convergence(stages.facts(config, workdir, name, len(scores)))}'
      f'{_certainty(config, workdir, name, scores, made.variants)}'
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


def _certainty(config, workdir, name, scores, variants) -> str:
  """Variants of a model are no independent draws: its mean is one."""
  of_models = scores.reshape(-1, variants, *scores.shape[1:]).mean(1)
  if len(of_models) < 2:
    return ''
  found = stages.uncertainty(config, workdir, name, of_models)
  return (
    f'; {found.significant.mean():.1%} of the pairs are significant (t-test over'
    f' {len(of_models)} models, 5% false discoveries)'
  )


if __name__ == '__main__':
  launch.launch(main)
