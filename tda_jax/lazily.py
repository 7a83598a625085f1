"""Modules of a package, imported when they are first used."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


def modules(package: str, path: Iterable[str]) -> Callable[[str], Any]:
  """The `__getattr__` of a package: `package.name` imports the module `name`."""
  names = {module.name for module in pkgutil.iter_modules(path)}

  def get(name: str) -> Any:
    if name in names:
      return importlib.import_module(f'{package}.{name}')
    raise AttributeError(f'module {package!r} has no attribute {name!r}')

  return get
