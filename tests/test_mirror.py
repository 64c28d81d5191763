"""tests/ mirrors compress_jax/: each module has its test file, or a reason why another has it."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / 'compress_jax', ROOT / 'tests'
# Test files that hold the tests of other modules than the one that they are named after.
ELSEWHERE = {
  # One interface, one set of laws and one set of random models for all methods.
  'methods/test_laws.py': [
    'codec',
    'errors',
    'methods/*/codec',
    'methods/kmeans/tables',
  ],
  'methods/test_coding.py': [
    'exact/static',
    'methods/cae/coding',
    'methods/gan/coding',
    'methods/gan/export',
    'methods/gmm/serial_coding',
    'methods/gmm/serial_export',
  ],
  'methods/test_networks.py': [
    'methods/*/geometry',
    'methods/*/networks',
    'methods/gmm/serial',
  ],
  'learned/test_reach.py': ['learned/scheme'],
  'methods/gmm/test_channels.py': [
    'exact/checkerboard',
    'methods/gmm/channels_coding',
    'methods/gmm/channels_export',
    'methods/gmm/export',
  ],
  # What one function calls for several cases.
  'clustering/test_k_means.py': [
    'clustering/coordinates',
    'clustering/lloyd',
    'clustering/points',
    'clustering/seeding',
  ],
  'exact/test_mixture.py': ['exact/escapes'],
  'images/test_formats.py': [
    'images/colour',
    'images/containers',
    'images/depth',
    'images/header',
    'images/jxl',
  ],
  'images/test_writing.py': ['files/atomic'],
  'training/test_plans.py': ['files/digests'],
  'evaluation/test_evaluate.py': ['evaluation/measure', 'runtime/workers'],
  'evaluation/test_lpips.py': ['evaluation/lpips_weights'],
  'test_model_zoo.py': ['evaluation/fingerprint', 'recipes'],
  # The same rows, drawn, listed and shown.
  'report/test_tables.py': [
    'report/byte_split',
    'report/curves',
    'report/figures',
    'report/palette',
    'report/qualities',
  ],
  'report/test_page.py': ['report/previews'],
  # Programs are tested by calls of the command line.
  'cli/test_main.py': ['__main__', 'cli/evaluate'],
  'cli/test_files.py': ['cli/coding'],
  'cli/test_command.py': ['cli/flag_types', 'cli/help', 'cli/processes', 'cli/train'],
  'cli/test_export.py': ['training/float_weights'],
  'cli/test_fit.py': ['training/estimates', 'training/feeding'],
  'training/test_objectives.py': ['training/optimizers', 'training/perceptual'],
  'training/test_stages.py': ['training/freezing', 'training/masking', 'training/scales'],
}
# Test files of no single module: what holds for a whole path, a folder, or outside of the package.
WHOLE = [
  'clustering/test_magnitudes.py',
  'exact/test_path.py',
  'learned/test_reach.py',
  'images/test_formats.py',
  'methods/test_coding.py',
  'methods/test_golden.py',
  'methods/test_laws.py',
  'methods/test_networks.py',
  'test_docstrings.py',
  'test_layout.py',
  'test_mirror.py',
  'test_package.py',
  'training/test_kills.py',
]
OUTSIDE = ('docs', 'examples', 'experiments')  # Folders beside the package.
MODULES = {
  path.relative_to(PACKAGE).with_suffix('').as_posix()
  for path in PACKAGE.rglob('*.py')
  if path.name != '__init__.py'
}
FILES = {path.relative_to(TESTS).as_posix(): path for path in TESTS.rglob('test_*.py')}


def own(module: str) -> str:
  """The name of the test file that mirrors a module."""
  return (Path(module).parent / f'test_{Path(module).name}.py').as_posix()


def test_every_module_has_a_test_file_or_a_reason():
  listed = {pattern: file for file, patterns in ELSEWHERE.items() for pattern in patterns}
  without = {module for module in MODULES if own(module) not in FILES}
  missing = [m for m in without if not any(fnmatchcase(m, pattern) for pattern in listed)]
  assert not sorted(missing)
  needless = [p for p in listed if not any(fnmatchcase(module, p) for module in without)]
  assert not needless, 'these have test files of their own, or are gone'


def test_every_test_file_mirrors_a_module_or_tests_a_whole():
  mirrored = {own(module) for module in MODULES}
  others = {name for name in FILES if name.split('/')[0] not in OUTSIDE} - mirrored
  assert others == set(WHOLE)
  assert ELSEWHERE.keys() <= FILES.keys()


@pytest.mark.parametrize('name', FILES)
def test_what_tests_share_is_in_helpers(name):
  tree = ast.parse(FILES[name].read_text())
  modules = [node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
  assert all(m.startswith('tests.helpers') for m in modules if m.split('.')[0] == 'tests')
