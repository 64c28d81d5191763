"""Extras: each package that may be missing is named with what installs it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compress_jax.codec import CodecError
from compress_jax.runtime.extras import require

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']
# What an absence of which extra stops, as a program that is run without the extra's packages.
ABSENT = {
  'deploy': ['flatbuffers'],
  'train': ['optax', 'orbax', 'tensorstore', 'grain', 'tensorboardX', 'filelock', 'skimage'],
  'report': ['jinja2', 'matplotlib', 'plotly'],
  'tfds': ['tensorflow_datasets'],
  'formats': ['imagecodecs', 'pillow_heif', 'pillow_jxl'],
}
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv.pop(1).split(','))
"""
TRAIN = 'from compress_jax.cli.main import main; raise SystemExit(main(["", "--mode=train"]))'


def requirements(lines):
  """Requirements without their comments."""
  return {line.split('#')[0].strip() for line in lines} - {''}


def run_without(packages, code):
  command = [sys.executable, '-c', WITHOUT + code, ','.join(packages)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_is_installed_passes():
  require('test', 'pytest', 'numpy')


@pytest.mark.parametrize('extra', ABSENT)
def test_what_is_missing_is_named_with_its_extra(extra, monkeypatch):
  for package in ABSENT[extra]:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CodecError) as caught:
      require(extra, 'numpy', package)
    assert str(caught.value) == f"needs {package}: pip install 'compress_jax[{extra}]'"


def test_every_extra_that_is_named_is_there():
  sources = (ROOT / 'compress_jax').rglob('*.py')
  named = {e for path in sources for e in re.findall(r"\brequire\('(\w+)'", path.read_text())}
  assert named == set(ABSENT) and named <= set(EXTRAS)


def test_training_without_its_extra_is_one_line():
  done = run_without(ABSENT['train'], TRAIN)
  line = "compress-jax: error: needs optax: pip install 'compress_jax[train]'\n"
  assert (done.returncode, done.stderr) == (1, line)


def test_the_report_without_its_extra_is_one_line():
  done = run_without(ABSENT['report'], 'import compress_jax.report.page')
  assert done.stderr.endswith("CodecError: needs jinja2: pip install 'compress_jax[report]'\n")


def test_reading_and_coding_files_needs_no_extra():
  absent = [package for packages in ABSENT.values() for package in packages]
  absent = [name for name in absent if name not in ('optax', 'orbax', 'tensorstore')]  # Of flax.
  code = """
import numpy as np
from compress_jax.cli import files
from compress_jax import pretrained
codec, released = pretrained('kmeans')
image = np.full((16, 24, 3), 77, np.uint8)
assert codec.decode(released, codec.encode(released, image)).shape == image.shape
for name in ('cae', 'gan', 'gmm'):
  pretrained(name)
"""
  done = run_without(absent, code)
  assert done.returncode == 0, done.stderr


def test_requirements_are_the_core_and_all_its_extras():
  """`pip install -r requirements.txt` runs everything from a checkout, as the README says."""
  names = 'train', 'report', 'tfds', 'formats', 'deploy'
  extras = [line for name in names for line in EXTRAS[name]]
  listed = requirements((ROOT / 'requirements.txt').read_text().splitlines())
  assert listed == requirements([*PROJECT['dependencies'], *extras])


def test_the_tests_have_every_extra():
  assert EXTRAS['all'] == ['compress_jax[deploy,formats,report,tfds,train]']
  assert 'compress_jax[all]' in EXTRAS['test']
