"""Differential expression across sites that show totals only: the protocol, in one process.

The statistics are those of `tl.de`, and so are the numbers, to rounding; only where the rows live
is another matter. Before any number moves the sites agree on genes, levels and the design
(`io.agreement`); then nothing but the sums of `run.protocol.STATISTICS` leaves a site.
"""

from .analysis import Run, analyse, simulate
from .joining import Question, Rules
from .member import Member
from .outcome import Outcome, Wanted, load, outcome
from .part import Kept, Permissions
from .plan import LIMIT, PATIENCE, Analysis, Lost, Plan, SiteSettings, received
from .publication import Publication
from .published import Published, publish, published
from .tested import lrt, ql, shrink, stays

__all__ = [
    "LIMIT",
    "PATIENCE",
    "Analysis",
    "Kept",
    "Lost",
    "Member",
    "Outcome",
    "Permissions",
    "Plan",
    "Publication",
    "Published",
    "Question",
    "Rules",
    "Run",
    "SiteSettings",
    "Wanted",
    "analyse",
    "load",
    "lrt",
    "outcome",
    "publish",
    "published",
    "ql",
    "received",
    "shrink",
    "simulate",
    "stays",
]
