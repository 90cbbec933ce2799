"""matfill fills missing parts of images, several ways, and says how probable a filling is."""

__version__ = "0.1.0"
