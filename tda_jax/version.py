"""The version of the library, which stands in every record."""

__version__ = '0.2.0'
