"""The `expressway` command."""

from typing import Annotated

import typer

from expressway import __version__

from . import cluster as mixtures
from . import federated
from . import pseudobulk as sums
from . import timecourse as course
from . import transform as transforms
from .de import EXAMPLE, de
from .options import Sectioned

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # frames leave half of 80 columns to the text
)
app.command(epilog=EXAMPLE, cls=Sectioned)(de)
app.command(epilog=course.EXAMPLE)(course.timecourse)
app.command(epilog=mixtures.EXAMPLE)(mixtures.cluster)
app.command(epilog=transforms.EXAMPLE)(transforms.transform)
app.command(epilog=sums.EXAMPLE)(sums.pseudobulk)
app.add_typer(federated.app, name="federated")


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"expressway {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Gene-expression analysis by M-estimation."""
