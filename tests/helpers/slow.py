"""Which cases of a test run by default."""

import pytest


def but_for(cases, *quick):
  """The cases of a parametrised test, all marked as slow but those in `quick`."""
  assert set(quick) <= set(cases)
  rest = {case: case if isinstance(case, tuple) else (case,) for case in cases}
  return [
    case if case in quick else pytest.param(*rest[case], marks=pytest.mark.slow) for case in cases
  ]
