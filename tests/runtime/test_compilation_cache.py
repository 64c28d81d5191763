import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILE = """
import jax
from compress_jax.runtime.compilation_cache import enable_cache
enable_cache()
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def run(**environment):
  outer = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  done = subprocess.run(
    [sys.executable, '-c', COMPILE],
    cwd=ROOT,
    env={**outer, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  assert not done.stderr
  return done.stdout.strip()


def test_programs_are_kept_in_the_users_cache(tmp_path):
  folder = Path(run(XDG_CACHE_HOME=str(tmp_path)))
  assert folder.is_relative_to(tmp_path) and list(folder.glob('*-cache'))


def test_a_folder_given_to_jax_is_respected(tmp_path):
  folder = run(JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'mine'))
  assert folder == str(tmp_path / 'mine') and list(Path(folder).glob('*-cache'))


def test_an_unwritable_cache_is_no_error(tmp_path):
  (tmp_path / 'file').write_text('in the way')
  assert run(XDG_CACHE_HOME=str(tmp_path / 'file')) == 'None'
