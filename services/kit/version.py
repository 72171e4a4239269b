"""The version that every answer carries in `x-mdw-version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("mdw")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"

VERSION_METADATA = ("x-mdw-version", VERSION)
