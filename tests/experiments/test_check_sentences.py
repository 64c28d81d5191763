"""Sentences that compare two codecs are found, and held against BD-rates."""

from pathlib import Path

import pytest

from experiments.check_sentences import claims, wrong

KNOWN = {
  ('gmm', 'avif', 'psnr'): [-11.4, -3.0],
  ('gmm', 'avif', 'ms_ssim'): [8.2],
  ('gmm', 'avif', 'ssimulacra2'): [23.7],
  ('gmm', 'webp', 'psnr'): [-28.1],
  ('cae', 'webp', 'psnr'): [13.0],
}


def found(text, page='README.md'):
  return [(claim.percent, claim.anchor) for claim in claims(Path(page), text)]


def verdicts(text, page='README.md'):
  return [not wrong(claim, KNOWN) for claim in claims(Path(page), text)]


def test_each_comparison_of_a_sentence_is_found():
  text = '- **gmm** needs 11.4 % fewer bits\n  than AVIF and 28 % fewer than WebP, 2 % more in all.'
  assert found(text) == [('-11.4', 'avif'), ('-28', 'webp')]
  assert found('gmm needs 5% fewer bits than slow AVIF') == [('-5', 'avif-slow')]


def test_signed_figures_keep_their_signs():
  assert found('-4.2 % against Ballé 2018, +16.2 % against Minnen 2018') == [
    ('-4.2', 'Ballé 2018'),
    ('+16.2', 'Minnen 2018'),
  ]


def test_tables_code_and_other_names_are_left_alone():
  assert found('| gmm | 11 % fewer than AVIF |') == []
  assert found('```sh\n11 % fewer than AVIF\n```') == []
  assert found('11 % fewer than the avifauna') == []


@pytest.mark.parametrize(
  'text,right',
  [
    ('gmm needs 11 % fewer bits than AVIF', True),
    ('gmm needs 11.4 % fewer bits than AVIF', True),
    ('gmm needs 12 % fewer bits than AVIF', False),
    ('gmm needs 11 % more bits than AVIF', False),
    ('cae needs 11 % fewer bits than AVIF', False),
    ('gmm needs 8 % more bits than AVIF', False),  # That is by MS-SSIM.
    ('gmm needs 8 % more bits than AVIF by MS-SSIM', True),
    ('By SSIMULACRA2 gmm needs 23.7 % more bits than AVIF', True),
    ('By LPIPS gmm needs 23.7 % more bits than AVIF', False),
    ('cae needs 13 % more bits than WebP', True),
  ],
)
def test_a_figure_has_to_be_that_of_a_codec_that_the_paragraph_names(text, right):
  assert verdicts(text) == [right]


def test_the_page_of_a_method_speaks_of_it():
  assert verdicts('It needs 28 % fewer bits than WebP.') == [False]
  assert verdicts('It needs 28 % fewer bits than WebP.', 'docs/methods/gmm.md') == [True]
