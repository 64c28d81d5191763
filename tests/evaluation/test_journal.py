import pytest

from compress_jax.evaluation import journal


@pytest.mark.parametrize('cut', range(1, 30, 4))
def test_a_journal_survives_a_line_cut_short(tmp_path, cut):
  path = tmp_path / 'rows.jsonl'
  journal.append(path, 'a', {'n': 1})
  journal.append(path, 'b', {'n': 2})
  path.write_bytes(path.read_bytes()[:-cut])
  journal.append(path, 'c', {'n': 3})
  rows = journal.read(path)
  assert rows.pop('b', {'n': 2}) == {'n': 2}
  assert rows == {'a': {'n': 1}, 'c': {'n': 3}}


def test_a_fingerprint_is_that_of_the_values():
  assert journal.fingerprint(1, {'a': 1, 'b': (2, 3)}) == journal.fingerprint(
    1, {'b': [2, 3], 'a': 1}
  )
  assert journal.fingerprint(1, 'a') != journal.fingerprint('1', 'a')
