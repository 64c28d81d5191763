"""The grids of gan's latents and hyper-latents, which are part of the format of its files."""

CELL = 16  # Pixels along a side of a latent.
HYPER_CELL = 4  # Latents along a side of a hyper-latent.
