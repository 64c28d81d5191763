"""The grids of gmm's latents and hyper-latents, which are part of the format of its files."""

CELL = 16  # Pixels of a latent's side.
HYPER_CELL = 4  # Latents of a hyper-latent's side.


def parts(mixtures: int) -> int:
  """Returns 3, for scales, means and logits, or 2 for one Gaussian, which has no logits."""
  return 3 if mixtures > 1 else 2


def outputs_of_latent(mixtures: int) -> int:
  """Returns how many outputs of the entropy parameters each latent has."""
  return parts(mixtures) * mixtures
