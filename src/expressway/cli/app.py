"""The `expressway` command."""

from typing import Annotated

import typer

from expressway import __version__

from .de import de

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(de)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"expressway {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Gene-expression analysis by M-estimation."""
