"""Tracing of facts: a claim in, the sentences of a corpus that support it out.

Gradients play no part. A corpus is indexed once (`index`): sentences are embedded,
clustered to small leaves and the leaves labelled with words. A claim is traced
(`trace`): candidates are retrieved, and a judge (`judges`) says of each whether it
supports the claim.

Source: Chen et al. 2024, FASTTRACK, https://arxiv.org/abs/2404.15157
"""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
