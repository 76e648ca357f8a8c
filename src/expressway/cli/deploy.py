"""`expressway federated provision`, `coordinator`, `site`, `run`: analyses of real sites."""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from expressway import federated, io
from expressway.run import kits, participants, privacy, projects

from . import across, brought, ends, folder, follow, options, publish

RUN_EXAMPLE = """\b
Example:
  expressway federated run kits/admin@example.org --design '~ study + gender' \\
      --contrast gender female male --out results
"""
_console = Console(highlight=False)
logger = logging.getLogger(__name__)


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(provision)
    app.command()(coordinator)
    app.command()(site)
    app.command(epilog=RUN_EXAMPLE, cls=options.Sectioned)(options.spread(run))
    app.command(epilog=publish.EXAMPLE)(publish.publish)


def provision(
    project: Annotated[
        Path, typer.Argument(metavar="PROJECT", help="Who takes part: project.yml.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the kits.")] = Path("kits"),
) -> None:
    """Make a kit for the coordinator, each site and the administrator.

    A kit is a folder with a certificate, its key and settings; send each to its owner by a way that
    nobody else can read. DIR/authority has the key that makes certificates: it stays where it is.
    """
    with ends.one_line_errors():
        made = kits.provision(projects.read_project(project), out)
        for name, kit in made.items():
            role = kits.read_kit(kit, json.loads((kit / "local/roster.json").read_text())["role"])
            ends.say(_console, f"{kit}  {role.role} {name}")
        ends.say(_console, f"{out / 'authority'}  makes more kits; keep it to yourself")


def coordinator(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the coordinator's kit.")],
) -> None:
    """Serve as coordinator until Ctrl-C: sites and the administrator connect to it."""
    with ends.one_line_errors():
        kits.read_kit(kit, "coordinator")
        _serve(kit, "coordinator of {0.project}: sites and administrator may connect")


def site(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the site's kit.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder with the site's counts.csv and samples.csv (also tsv, mtx, .gz), or an "
            "h5ad.",
        ),
    ],
    min_sites: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=2,
            help="Take part with so many sites or more; all of the project, if not given.",
        ),
    ] = None,
    min_samples: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Refuse designs with fewer samples, over all sites, in a combination of levels "
            "that this site has.",
        ),
    ] = federated.Permissions().min_samples,
    allow_plain: Annotated[
        bool,
        typer.Option("--allow-plain", help="Show totals of this site alone to a coordinator."),
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Columns of the sample table that a design may use; any, if not given.",
        ),
    ] = None,
    may_be_left_out: Annotated[
        bool,
        typer.Option(
            "--may-be-left-out",
            help="Let the others go on if this site is lost. What it had sent can then be told "
            "from the difference of totals with and without it.",
        ),
    ] = False,
    privacy_budget: Annotated[
        float,
        typer.Option(
            metavar="RHO",
            min=0.0,
            help="Answer 'expressway federated publish', until so much of differential privacy is "
            "spent, ever; 0 for never.",
        ),
    ] = 0.0,
) -> None:
    """Take part as a site until Ctrl-C.

    Nothing but totals of listed statistics leaves the site. All that left is in
    KIT/disclosure.csv, what was computed for the site alone in KIT/results, what was spent of
    --privacy-budget in KIT/privacy.csv.
    """
    with ends.one_line_errors():
        mine = kits.read_kit(kit, "site")
        participants.check_keys(mine)
        participants.check_idle(mine)
        adata = io.read_site(data)
        settings = federated.SiteSettings(
            str(data.resolve()),
            min_sites or len(mine.sites),
            min_samples,
            allow_plain,
            None if columns is None else tuple(name.strip() for name in columns.split(",")),
            may_be_left_out,
            privacy_budget,
        )
        settings.write(kit)
        shape = f"{adata.n_obs:,} samples x {adata.n_vars:,} genes"
        del adata
        if privacy_budget:
            left = privacy.Account(privacy_budget, mine.folder / privacy.SPENT).left
            shape = f"{shape}; publishes to a rho of {left:g}"
        _serve(kit, f"site {{0.name}} of {{0.project}}: {shape}")


def _serve(kit: Path, says: str) -> None:
    """Run a participant until it is told to end, by SIGTERM with exit code 143."""
    try:
        with participants.start(kit) as participant:
            participant.ready()
            ends.say(_console, says.format(participant.kit) + "; Ctrl-C ends it")
            code = participant.wait()
    except KeyboardInterrupt:
        ends.say(_console, "ended")
        return
    except SystemExit:  # of SIGTERM
        ends.say(_console, "ended")
        raise
    message = f"its process ended with code {code}; see {kit / 'log'}"
    raise io.InputError(message)


def run(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the administrator's kit.")],
    of: across.Across,
    site: follow.Only = None,
    patience: follow.Patience = federated.PATIENCE,
    limit: follow.Limit = federated.LIMIT,
) -> None:
    """Differential expression across the sites of a project, at whose coordinator it runs.

    FILE of --offsets and --weights names a file in each site's own folder, that of --control-genes
    and --trend is here.

    DIR receives what the coordinator has of it (results.csv, genes.csv, run.json, figures, fit.h5ad
    for other contrasts, disclosure.csv with every total that came from a site). What stays at a
    site is written there.
    """
    clock = io.Clock()
    states: set[str] = set()

    def left() -> str:
        if "running" not in states:
            return "the run had not begun; nothing was written"
        return "the coordinator keeps finished stages; the same command with --resume goes on"

    with ends.interruptible(left) as check, ends.one_line_errors(), ends.shown_warnings():
        what = across.understood(of)
        mine = follow.administrator(kit)
        names = follow.chosen(mine, site)
        plan = federated.Plan(
            tuple(names),
            federated.Analysis(
                _question(of, what, len(mine.sites)),
                what.settings,
                None if what.trend is None else what.trend[["mean", "dispersion"]].to_numpy(float),
                what.wanted,
                of.resume,
            ),
            patience,
            limit,
        )
        with ends.progress({"run": 1.0}, check, quiet=of.quiet) as progress:
            folder.expect_figures()

            def watch(state: str) -> None:
                states.add(state)
                progress.watch(state)

            with clock.stage("run"):
                plan, found = _with_who_is_left(kit, mine, plan, watch)
            inputs = {"project": mine.project, "coordinator": mine.coordinator}
            inputs |= {"sites": list(plan.sites), "lost": sorted(set(names) - set(plan.sites))}
            tested = across.write(found, of, what, inputs, clock, check=check)
        across.say(found, of, tested)


def _question(of: across.Across, what: across.Understood, sites: int) -> federated.Question:
    """What is asked in a project of so many sites."""
    files = what.files
    # Also of two that take part, or are left, of three neither shows anything to the coordinator.
    rules = what.rules._replace(masks=what.rules.masked(sites))
    inputs = brought.named(files)
    own: dict[str, Any] = {"offsets": files.offsets, "weights": files.weights}
    own = {name: None if path is None else str(path) for name, path in own.items()}
    controls = None if files.control_genes is None else io.read_genes(files.control_genes)
    return federated.Question(
        of.design, what.specs[0], what.reference, inputs, rules, own | {"controls": controls}
    )


def _with_who_is_left(
    kit: Path, mine: kits.Kit, plan: federated.Plan, watch: Callable[[str], None]
) -> tuple[federated.Plan, federated.Outcome]:
    """What a run found: without sites that were lost, if they had agreed to that."""
    assert isinstance(plan.asked, federated.Analysis)
    least = plan.asked.question.rules.min_sites
    while True:
        with tempfile.TemporaryDirectory(prefix="expressway-") as scratch:
            try:
                found = follow.carried_out(kit, mine, plan, Path(scratch), watch)
                return plan, federated.load(found)
            except federated.Lost as lost:
                sites = tuple(name for name in plan.sites if name != lost.site)
                if len(sites) < least:
                    raise
                why = str(lost).partition(";")[0]  # what to do comes behind
                logger.warning("%s; it had agreed that the others go on without it: they do", why)
                plan = plan._replace(sites=sites)
