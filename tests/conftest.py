"""Four devices on the host, so that pmap is exercised; must come before jax is imported."""

import os
from pathlib import Path

import pytest

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
)
_MAPS = Path('/proc/self/maps')
_MANY = 40_000  # Linux lets a process map 65,530 regions; XLA crashes where it gets no more.


@pytest.fixture
def photos(tmp_path):
  """A folder of two small images."""
  from PIL import Image as PILImage

  from tests.helpers.small_models import picture

  folder = tmp_path / 'photos'
  folder.mkdir()
  for i, side in enumerate((80, 96)):
    PILImage.fromarray(picture(side, 90, i)).save(folder / f'{i}.png')
  return folder


@pytest.fixture(autouse=True, scope='module')
def few_compiled_programs():
  """Forgets compiled programs before they take all the memory maps that a process may have."""
  yield
  if _MAPS.exists() and _MAPS.read_bytes().count(b'\n') > _MANY:
    import jax

    jax.clear_caches()
