"""Memory that is freed and taken again is not asked of the kernel again."""

import platform
import subprocess
import sys

import pytest

from compress_jax.runtime import allocation

_SCRIPT = """
import resource, sys
from compress_jax.runtime import allocation
if sys.argv[1] == 'keep':
  assert allocation.keep_freed_memory()
size = int(sys.argv[2])
def faults():
  for _ in range(10):
    b'x' * size
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


def faults(what):
  command = [sys.executable, '-c', _SCRIPT, what, str(2**26)]
  return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='Other allocators are left alone.')
def test_pages_are_taken_once():
  assert faults('keep') < faults('return') / 10


def test_other_systems_are_left_alone(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'darwin')
  assert not allocation.keep_freed_memory()
