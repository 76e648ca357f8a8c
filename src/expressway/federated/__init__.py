"""Differential expression across sites that show totals only: the protocol, in one process.

The statistics are those of `tl.de`, and so are the numbers, to rounding; only where the rows live
is another matter. Before any number moves the sites agree on genes, levels and the design
(`io.agreement`); then nothing but the sums of `run.protocol.STATISTICS` leaves a site.
"""

from .analysis import Run, simulate
from .joining import Rules
from .tested import Kept, lrt, ql, shrink, stays

__all__ = ["Kept", "Rules", "Run", "lrt", "ql", "shrink", "simulate", "stays"]
