"""Construction of codecs from the parts of learned methods."""
