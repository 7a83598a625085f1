"""Stage 3: how good the scores of a workdir are; or scores from elsewhere.

  python -m experiments.evaluate --config=C --workdir=W

takes the LDS of the methods of a config against retrained models; with the same
--config.ensemble as `attribute`, that of its scores. Scores that another library
made of the same models and rows are measured beside them by

  ... --scores=FILE --sign=supports --orientation=rows_by_queries --name=THEIRS

(.npy, .npz, .zarr, .pt). With a config of the experiment quanda, `--world=NAME`
says of which world they are (W/NAME/world.npz has its rows, labels and model) and
`--own=FILE` gives self-influence in the loss of the mislabelled rows, positive;
every metric that they allow is measured. Results are in W/evaluate/THEIRS.

kronfluence and quanda give queries_by_rows. kronfluence's scores support where
its measurement is the query's loss or minus its margin, and harm where it is a
log-probability.
"""

import pathlib

import numpy as np
from absl import flags, logging

from experiments.quanda import metrics as metrics_lib
from experiments.quanda import worlds as worlds_lib
from experiments.shared import ensembles, findings, launch, rules, tasks
from experiments.shared import settings as settings_lib
from tda_jax.data import rows as rows_lib
from tda_jax.report import table
from tda_jax.storage import files, foreign, record

_SCORES = flags.DEFINE_string('scores', None, 'file of scores from elsewhere')
_OWN = flags.DEFINE_string('own', None, 'file of their self-influence')
_ZEROS = flags.DEFINE_bool(
  'zeros', False, 'lines of zeros in --scores are meant, not missing'
)
_NAME = flags.DEFINE_string('name', 'theirs', 'what to call them in tables')
_WORLD = flags.DEFINE_string('world', 'clean', 'world of quanda they are of')
_SIGN = flags.DEFINE_enum(
  'sign', None, foreign.SIGNS, 'what a larger score means for the query'
)
_ORIENTATION = flags.DEFINE_enum(
  'orientation', None, foreign.ORIENTATIONS, 'axes of the scores'
)


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'evaluate')
  folder = workdir / 'evaluate'
  given = _SCORES.value or _OWN.value
  check(config, given)
  if given:
    of = of_worlds if config.experiment == 'quanda' else of_truth
    rows, folder = of(config, workdir), folder / _NAME.value
  else:
    task = tasks.load(config)
    models = ensembles.trained(config, task, workdir)
    truth = findings.truth(config, task, workdir)
    found = findings.measure(config, task, models, truth, workdir)
    rows = findings.rows(found, truth)
  others = beside(workdir, rows) if given else []
  table.print_results([*rows, *others], config.setting)
  if files.writable(workdir):  # else they are printed only
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'results.json'
    record.results(file, 'evaluate', config.setting, rows, [])


def check(config, given) -> None:
  """Raises ValueError for flags that do not go together."""
  quanda_config = config.experiment == 'quanda'
  rules.name.check('--name', _NAME.value)
  for own, read, needs in (
    (_SIGN, _SCORES.value, '--scores'),
    (_ORIENTATION, _SCORES.value, '--scores'),
    (_ZEROS, _SCORES.value, '--scores'),
    (_NAME, given, '--scores or --own'),
    (_WORLD, quanda_config, 'a config of quanda'),
  ):
    if own.value != own.default and not read:
      raise ValueError(
        f'--{own.name}={own.value} would not be read without {needs}: leave it'
        ' out'
      )
  if quanda_config and not given:
    raise ValueError(
      "experiments.quanda measures this config's own methods: here give"
      ' --scores=FILE, or --own=FILE'
    )
  if _OWN.value and not quanda_config:
    raise ValueError(
      f'--own finds wrong labels, and the experiment {config.experiment} has no'
      ' world with some: give a config of quanda, or --scores=FILE'
    )
  if _SCORES.value and None in (_SIGN.value, _ORIENTATION.value):
    raise ValueError(
      'scores from elsewhere need --sign=supports or harms (what a larger one'
      ' means) and --orientation=rows_by_queries or queries_by_rows'
    )
  if _SCORES.value and quanda_config and _WORLD.value == 'mislabelled':
    raise ValueError(
      'wrong labels are found by self-influence: give --own=FILE instead of'
      ' --scores, or another --world'
    )


def of_truth(config, workdir) -> list[dict]:
  """LDS of the scores against the models that the config retrains."""
  task = tasks.load(config)
  truth = findings.truth(config, task, workdir)
  found = findings.of_scores((read(task)[None],), truth)
  return findings.rows({_NAME.value: found}, truth)


def of_worlds(config, workdir) -> list[dict]:
  """Every metric of Quanda that the scores allow."""
  worlds, of, own = {}, {}, None
  if _SCORES.value:
    name = _WORLD.value
    worlds[name] = worlds_lib.world(config, name, workdir)
    of[name] = read(worlds[name].task)
  if _OWN.value:
    name = 'mislabelled'
    worlds[name] = worlds_lib.world(config, name, workdir)
    count = rows_lib.count(worlds[name].task.train)
    own = foreign.checked_self_influence(foreign.read(_OWN.value), count)
  truth, left = None, None
  if 'clean' in of:
    truth, left = worlds_lib.ground_truth(config, worlds)
  scores = worlds_lib.Scores(of, None, own, None)
  found = metrics_lib.measured(config, worlds, truth, left, _NAME.value, scores)
  return metrics_lib.result_rows({_NAME.value: found}, {}, {}, worlds)


def read(task) -> np.ndarray:
  """The scores [N, Q] of the flags, in our sign."""
  scores = foreign.oriented(
    foreign.read(_SCORES.value, _ZEROS.value),
    _ORIENTATION.value,
    _SIGN.value,
    *(rows_lib.count(rows) for rows in (task.train, task.queries)),
  )
  known = task.known or {}
  labels, asked = task.train['y'], task.queries['y']
  if 'query_labels' in known:
    labels, asked = known['labels'], known['query_labels']
  if np.issubdtype(np.asarray(labels).dtype, np.integer):
    if sentence := foreign.suspicion(scores, labels, asked):
      logging.warning('%s: %s', _SCORES.value, sentence)
  return scores


def beside(workdir, rows) -> list[dict]:
  """What the workdir's own run measured by the same metrics."""
  file = workdir / 'results.json'
  if not file.exists():
    return []
  metrics = {row['metric'] for row in rows}
  methods = {row['method'] for row in rows}
  return [
    row
    for row in record.read_json(file)['rows']
    if row['metric'] in metrics and row['method'] not in methods
  ]


if __name__ == '__main__':
  launch.launch(main)
