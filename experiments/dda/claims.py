"""Claims of DDA, and of how it comes about, computed from what was measured.

Intervals are 95%, over bases, fine-tunings and queries.
"""

from experiments.dda import estimates
from experiments.dda.measured import Measured, others
from experiments.shared.claim import claim, signed, spanned
from tda_jax.evaluation import bootstrap

DDA = 'DDA paper'
OURS = 'ours: what the prototypes found'
PAPER_AUC, PAPER_LOSS = 0.9164, 0.552
MAIN = (
  *('bm25', 'base_loss', 'grad_dot_loss_base', 'grad_dot_loss'),
  *('grad_dot_contrast', 'grad_dot_loss_denoise', 'grad_dot_contrast_denoise'),
  *('grad_dot_contrast_dda_0.25', 'grad_dot_contrast_dda_1', 'printed_loss'),
  *('printed_loss_dda_1', 'contrast_pair_contrast_denoise'),
)
BETTER = (  # (name, better, worse, least difference, source), over all parts
  (
    'denoise above the last checkpoint, contrast',
    *('grad_dot_contrast_denoise', 'grad_dot_contrast', 0.0, DDA),
  ),
  (
    'denoise above the last checkpoint, loss',
    *('grad_dot_loss_denoise', 'grad_dot_loss', 0.0, DDA),
  ),
  (
    'contrast above loss, last checkpoint',
    *('grad_dot_contrast', 'grad_dot_loss', 0.0, OURS),
  ),
  (
    'contrast above loss, denoised',
    *('grad_dot_contrast_denoise', 'grad_dot_loss_denoise', 0.0, OURS),
  ),
  (
    'debias with beta 1 above none, denoised contrast',
    *('grad_dot_contrast_dda_1', 'grad_dot_contrast_denoise', PAPER_LOSS, DDA),
  ),
  (
    'debias of EKFAC with beta 1 above none, denoised contrast',
    *('ekfac_contrast_dda_1', 'ekfac_contrast_denoise', 0.0, DDA),
  ),
  (
    'debias of contrast pairs with beta 1 above none, denoised',
    *('contrast_pair_contrast_dda_1', 'contrast_pair_contrast_denoise', 0.0, DDA),
  ),
  (
    'denoised contrast above BM25',
    *('grad_dot_contrast_denoise', 'bm25', 0.0, DDA),
  ),
  (
    'DDA with beta 1 above BM25',
    *('grad_dot_contrast_dda_1', 'bm25', 0.0, DDA),
  ),
)  # fmt: skip


def computed(
  measured: Measured, config, default: str, cost: tuple[float, int]
) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    default: the form that was chosen on planted controls.
    cost: (seconds of DDA over those of Grad-Dot, checkpoints + 1).
  """
  out = []
  for name, better, worse, least, source in BETTER:
    if better in measured.auc and worse in measured.auc:
      gained = _gap(measured, better, worse, config.parts)
      out.append(_better(name, source, gained, least))
  for part in config.parts:
    out += _of_part(measured, config, part)
  out += _of_default(measured, config, default)
  ratio, points = cost
  expected = f'times the seconds of Grad-Dot at most {points}'
  said = f'{ratio:.2f}'
  out.append(
    claim(
      'cost of C checkpoints and the base',
      OURS,
      expected,
      said,
      ratio <= points,
    )
  )
  return out


def _of_part(measured, config, part):
  """Claims of one cell of the map: what the base knows, how far it is fitted."""
  out, gap = [], lambda a, b: _gap(measured, a, b, [part])
  if 'overfitted' in part:
    for measure in ('loss', 'contrast'):
      gained = gap(f'grad_dot_{measure}_denoise', f'grad_dot_{measure}')
      name = f'denoise helps where overfitted, {measure}: {part}'
      out.append(_better(name, OURS, gained, 0.05))
  # The beta above 0 that is best here, chosen on the queries themselves.
  tried = [
    gap(f'grad_dot_contrast_dda_{b:g}', 'grad_dot_contrast_denoise')
    for b in config.betas
  ]
  best = max(tried, key=lambda found: found.value)
  out.append(_better(f'debias at its best beta helps: {part}', DDA, best, 0.0))
  of = lambda name: estimates.nested(measured.auc[name][part])
  plain, debiased = of('printed_loss'), of('printed_loss_dda_1')
  out += [
    claim(
      f'as printed, without debias: {part}',
      DDA,
      'AUC below 0.5',
      spanned(*plain[:3], sign=''),
      plain.high < 0.5,
    ),
    claim(
      f'as printed, with debias and denoise: {part}',
      DDA,
      'AUC above 0.9',
      spanned(*debiased[:3], sign=''),
      debiased.low > 0.9,
    ),
    _least(
      f'the base alone at least as good as printed: {part}',
      gap('grad_dot_loss_base', 'printed_loss_dda_1'),
    ),
  ]  # fmt: skip
  return out


def _of_default(measured, config, default):
  """Whether the form that was chosen on the first base is good on the others."""
  where = 'the others' if config.bases > 1 else 'its asked pairs'
  found = estimates.average(
    [others(values) for values in measured.auc[default].values()]
  )
  dda = estimates.average([*measured.auc['grad_dot_contrast_dda_1'].values()])
  return [
    claim(
      f'the form chosen on planted controls of one base, on {where}: {default}',
      OURS,
      'AUC at least 0.95',
      spanned(*found[:3], sign=''),
      found.value >= 0.95,
    ),
    claim(
      'DDA with beta 1 reaches the AUC of the paper',
      DDA,
      f'AUC at least {PAPER_AUC}',
      spanned(*dda[:3], sign=''),
      dda.value >= PAPER_AUC,
    ),
  ]


def _gap(measured, better, worse, parts) -> bootstrap.Estimate:
  """The difference of AUC over the worlds that both were measured in."""
  pairs = [
    _common(measured.auc[better][part], measured.auc[worse][part])
    for part in parts
  ]
  one, other = zip(*pairs, strict=True)
  return bootstrap.difference(estimates.average(one), estimates.average(other))


def _common(a, b):
  """The values of the first worlds of each base, as many as both have."""
  counts = [min(len(x), len(y)) for x, y in zip(a, b, strict=True)]
  cut = lambda values: [of[:n] for of, n in zip(values, counts, strict=True)]
  return cut(a), cut(b)


def _better(name, source, difference, least):
  expected = f'AUC difference above {least:g}'
  return claim(
    name, source, expected, signed(difference), difference.low > least
  )


def _least(name, difference):
  expected = 'AUC difference at least 0'
  return claim(name, OURS, expected, signed(difference), difference.value >= 0)
