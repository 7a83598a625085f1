"""Attribution under limited access (Zhang et al. 2025): proxies for a target."""

from experiments.limited_access.experiment import main as main
