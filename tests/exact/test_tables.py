"""The tables of the exact path are the functions they stand for, rounded."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from compress_jax.exact import tables

SIGMAS = 0.11 * 2.0 ** (np.arange(180) / 16)
# Changing a table changes what files mean: a new version of the format.
DIGEST = '329f2e4ff326b278b98de0a1c811b32fa019c0531a8db9c8edc5a54b42441182'


def check_phi(phi):
  x = (np.arange(65537) - 32768) / 4096
  np.testing.assert_allclose(phi, 2.0**24 * special.ndtr(x), rtol=0, atol=0.5 + 1e-6)
  assert (np.diff(phi) >= 0).all()
  np.testing.assert_array_equal(phi.astype(np.float64) + phi[::-1], np.full(65537, 2.0**24))
  assert phi[0] == 0 and phi[-1] == 2**24


def test_phi_is_the_normal_distribution_function():
  check_phi(tables.PHI)
  assert tables.PHI.dtype == np.float32


@pytest.mark.parametrize('at', [0, 1000, 32768, 40000, 65536])
def test_one_wrong_unit_of_phi_is_noticed(at):
  phi = tables.PHI.copy()
  phi[at] += 2
  with pytest.raises(AssertionError):
    check_phi(phi)


def test_exp_is_the_exponential_function():
  expected = 2.0**15 * np.exp(-np.arange(1025) / 64)
  np.testing.assert_allclose(tables.EXP, expected, rtol=0, atol=0.5)
  assert tables.EXP[0] == 2**15 and tables.EXP[-1] == 0


def test_scales_are_sixteen_to_an_octave():
  np.testing.assert_allclose(tables.SCALES, SIGMAS, rtol=1e-15)
  np.testing.assert_array_equal(tables.INV, np.rint(2.0**20 / SIGMAS))
  np.testing.assert_array_equal(tables.REACH, np.rint(4 * 256 * SIGMAS))


@pytest.mark.parametrize('table', ['INV', 'REACH', 'EXP', 'PHI'])
def test_tables_are_integers(table):
  values = getattr(tables, table)
  np.testing.assert_array_equal(values, np.rint(values))


def test_the_index_of_a_scale_is_its_own():
  sigma = np.rint(SIGMAS * 2**16)
  np.testing.assert_array_equal(tables.scale_index(sigma), np.arange(180))


def test_the_index_is_the_nearest_one():
  rng = np.random.default_rng(0)
  sigma = np.concatenate([np.arange(64, 2**17), np.floor(2 ** rng.uniform(17, 31, 100_000))])
  exact = 16 * np.log2(sigma / 2**16 / 0.11)
  # 0.2 % of a scale is 0.046 of a step.
  assert np.abs(tables.scale_index(sigma.astype(np.float64)) - exact).max() < 0.55


def test_doubling_a_scale_adds_sixteen_to_its_index():
  sigma = np.floor(2 ** np.random.default_rng(1).uniform(10, 20, 10_000))
  np.testing.assert_array_equal(tables.scale_index(8 * sigma), tables.scale_index(sigma) + 48)


def test_indices_end_where_scales_do():
  sigma = np.array([-(2.0**40), -1.0, 0.0, 1.0, 2.0**40, 2.0**52])
  lowest, highest = -tables.BELOW, tables.N_SCALES - 1 + tables.ABOVE
  np.testing.assert_array_equal(tables.scale_index(sigma), 4 * [lowest] + 2 * [highest])
  assert (np.diff(tables.scale_index(np.arange(-10.0, 1e6))) >= 0).all()


def test_jax_finds_the_same_indices():
  sigma = np.floor(2 ** np.random.default_rng(2).uniform(0, 34, 10_000)) - 3
  with jax.enable_x64(True):
    found = jax.jit(lambda s: tables.scale_index(s, jnp))(sigma)
    np.testing.assert_array_equal(found, tables.scale_index(sigma))


def test_the_tables_have_not_changed():
  assert tables.digest() == DIGEST


def test_the_tables_are_made_without_a_math_library():
  """With every function of C's libm spoiled, the same tables come out."""
  code = """
import math, numpy as np
for name in ('exp', 'exp2', 'expm1', 'log', 'log2', 'log1p', 'sqrt', 'power', 'float_power'):
  setattr(np, name, None)
for name in ('exp', 'log', 'log2', 'erf', 'erfc', 'sqrt', 'pow'):
  setattr(math, name, None)
from compress_jax.exact import tables
print(tables.digest())
"""
  root = Path(__file__).parents[2]
  done = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
  assert done.stdout.strip() == DIGEST, done.stderr


@pytest.mark.parametrize('kind', ['float32', 'int64', 'float16'])
def test_scales_of_a_type_whose_bits_would_be_misread_are_refused(kind):
  with pytest.raises(TypeError, match=f'float64.*not {kind}'):
    tables.scale_index(np.ones(4, kind))
