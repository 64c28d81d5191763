"""Reading and writing of images: sets, formats, colour, depth, the Kodak suite, training images."""
