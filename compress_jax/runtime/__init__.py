"""The process around the computation: caches, memory, cores, workers, devices."""
