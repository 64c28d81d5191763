"""Packages that only an extra installs, such as `pip install 'compress_jax[train]'`."""

from importlib.util import find_spec

from compress_jax.errors import CodecError


def require(extra: str, *packages: str) -> None:
  """Checks that packages are installed, without importing them.

  Args:
    extra: the extra in pyproject.toml that installs them.
    *packages: names of top-level modules.

  Raises:
    CodecError: a package is missing; the message says what to install.
  """
  for package in packages:
    if find_spec(package) is None:
      raise CodecError(f"needs {package}: pip install 'compress_jax[{extra}]'")
