"""Block vector quantisation: blocks, codebooks, and the probability of each index."""
