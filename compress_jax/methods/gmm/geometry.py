"""The grids of gmm's latents and hyper-latents, which are part of the format of its files."""

CELL = 16  # Pixels of a latent's side.
HYPER_CELL = 4  # Latents of a hyper-latent's side.
