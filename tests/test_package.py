"""What is distributed: one version everywhere, a wheel with the models, sources and tests."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import compress_jax

ROOT = Path(__file__).parents[1]
LARGEST = 100e6  # Bytes of a file that PyPI takes.


def citation():
  return yaml.safe_load((ROOT / 'CITATION.cff').read_text())


def test_the_citation_names_the_latest_version_of_the_changelog():
  latest = re.search(r'^## (\d\S*) \((\S+)\)$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
  assert latest.groups() == (citation()['version'], citation()['date-released'])
  assert latest.group(1) == compress_jax.__version__


def test_the_citation_has_what_the_format_requires():
  # The schema of the Citation File Format 1.2.0 requires these; authors are persons or entities.
  assert {'authors', 'cff-version', 'message', 'title'} <= citation().keys()
  assert citation()['cff-version'] == '1.2.0' and citation()['type'] == 'software'
  assert all('name' in author or 'family-names' in author for author in citation()['authors'])


@pytest.mark.parametrize('name', ['ISSUE_TEMPLATE/bug', 'ISSUE_TEMPLATE/feature', 'workflows/ci'])
def test_what_github_reads_is_yaml(name):
  assert yaml.safe_load((ROOT / '.github' / f'{name}.yml').read_text())['name']


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The folder of a wheel that was built from the source distribution beside it."""
  pytest.importorskip('build')
  folder = tmp_path_factory.mktemp('dist')
  program = [sys.executable, '-m', 'build', '--outdir', str(folder), str(ROOT)]
  done = subprocess.run(program, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
  return folder


def only(folder, pattern):
  [path] = folder.glob(pattern)
  return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_models_alone(built):
  path = only(built, '*.whl')
  names = zipfile.ZipFile(path).namelist()
  package = ROOT / 'compress_jax'
  ours = {p.relative_to(ROOT).as_posix() for p in package.rglob('*.py')}
  others = {p.relative_to(ROOT).as_posix() for p in (package / 'zoo').iterdir()}
  templates = {p.relative_to(ROOT).as_posix() for p in (package / 'report/templates').iterdir()}
  expected = {*ours, *others, *templates, 'compress_jax/py.typed'}
  information = f'compress_jax-{compress_jax.__version__}.dist-info/'
  assert {name for name in names if not name.startswith(information)} == expected
  assert any(name.startswith(f'{information}licenses/LICENSE') for name in names)
  assert path.stat().st_size < LARGEST


@pytest.mark.slow
def test_the_sources_hold_everything_that_tests_need(built):
  path = only(built, '*.tar.gz')
  with tarfile.open(path) as archive:
    names = {name.partition('/')[2] for name in archive.getnames()}
  folders = ('compress_jax', 'tests', 'docs', 'examples', 'experiments', '.ci')
  tracked = {
    p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob('*.py')
  }
  beside = {'README.md', 'CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'requirements.txt', 'run.py'}
  assert tracked | beside <= names
  assert 'tests/golden/cae.safetensors' in names and '.ci/run' in names
  assert not [name for name in names if '__pycache__' in name or name.endswith('.tmp')]
  assert path.stat().st_size < LARGEST


@pytest.mark.slow
def test_the_description_is_what_pypi_shows(built):
  pytest.importorskip('twine')
  program = [sys.executable, '-m', 'twine', 'check', '--strict', *map(str, built.iterdir())]
  done = subprocess.run(program, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
