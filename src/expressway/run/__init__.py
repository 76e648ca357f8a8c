"""Where rows live, beyond one table in this process's memory."""

from .sites import Sites as Sites
