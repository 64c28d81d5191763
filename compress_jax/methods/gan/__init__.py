"""HiFiC: a conditional GAN over a mean-scale hyperprior (Mentzer et al. 2020)."""
