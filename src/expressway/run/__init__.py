"""Where rows live, beyond this process's memory."""

from .sites import Sites as Sites
