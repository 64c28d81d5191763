"""A run that is killed again and again is the run that was never broken."""

import pytest

from experiments import kill_training

pytestmark = pytest.mark.slow


def test_kills_at_random_moments_change_nothing(tmp_path):
  assert kill_training.compare(tmp_path, steps=80, kills=5, during_saves=1) == 5
