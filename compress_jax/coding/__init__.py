"""What the files of the learned methods hold: integers, and how they are predicted."""
