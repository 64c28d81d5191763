"""K-means on points f32[N, D], usable alone."""
