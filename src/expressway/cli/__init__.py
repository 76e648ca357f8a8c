"""The command line: parse, call `tl`, print."""

from .app import app as app
