"""The client's version, also the wheel's."""

__version__ = "0.1.0"
