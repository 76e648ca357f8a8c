"""`python -m expressway`: the command line."""

from expressway.cli import app

app()
