"""Integer networks and tables for the entropy coder, with the same bits on every machine."""
