"""Settings of the process: caches, memory, processor cores, worker processes, devices."""
