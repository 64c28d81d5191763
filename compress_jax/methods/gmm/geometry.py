"""The grids of gmm's latents and hyper-latents, which are part of the format of its files."""

CELL = 16  # Pixels along a side of a latent.
HYPER_CELL = 4  # Latents along a side of a hyper-latent.


def parts(mixtures: int) -> int:
  """Returns 3, for scales, means and logits, or 2 for one Gaussian, which has no logits."""
  return 3 if mixtures > 1 else 2


def outputs_of_latent(mixtures: int) -> int:
  """Returns the number of outputs of the entropy parameters per latent."""
  return parts(mixtures) * mixtures
