"""Every error the library raises on purpose.

The message says what was wrong with what, and how to mend it, in one line: the command line prints it as it is.
"""

import unicodedata


class MatfillError(Exception):
    """Base of all errors below; anything else that escapes the library is a bug."""


class ImageError(MatfillError):
    """An image file cannot be read, written or used."""


class MaskError(MatfillError):
    """A mask specification or mask file cannot be understood, or does not fit the image."""


class WeightsError(MatfillError):
    """A weights file or checkpoint cannot be found, read or trusted."""


class DataError(MatfillError):
    """A data set cannot be found, read, or is too small for what is asked."""


class ConfigError(MatfillError):
    """A configuration names an unknown field or an impossible combination."""


def one_line(text: object) -> str:
    """As it can be shown: names of files may hold line breaks and escape codes."""
    return "".join("?" if unicodedata.category(char) == "Cc" else char for char in str(text))
