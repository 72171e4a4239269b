"""The client's version, also the wheel's."""

VERSION = "0.1.0"
