"""The one exception of the library, in a module that imports nothing: reading a header is quick."""


class CodecError(ValueError):
  """Raised for every fault of a file, an image or an option, with a message of one line."""
