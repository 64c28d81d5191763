"""Programs that reproduce the project's numbers: python -m experiments.NAME."""
