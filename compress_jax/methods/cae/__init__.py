"""Compressive autoencoder with a Gaussian scale mixture prior (Theis et al. 2017)."""
