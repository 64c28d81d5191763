"""Images in and out: sets, formats, colour, depth, the Kodak suite, training images."""
