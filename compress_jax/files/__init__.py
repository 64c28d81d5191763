"""Files that are complete or not there: written atomically, locked, fingerprinted."""
