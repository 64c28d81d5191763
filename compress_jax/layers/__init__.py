"""What the float networks are made of: blocks, convolutions, quantisation, likelihoods."""
