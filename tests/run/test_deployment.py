"""A deployment on loopback, by its commands: the simulation's numbers, and who may do what."""

import json
import re
import socket
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("nvflare")

from deployment import ADMINISTRATOR, COORDINATOR, SITES, Deployment, deployed
from loopback import free_ports, project

from expressway._errors import InputError
from expressway.run import jobs, kits, participants

# FLARE 2.9 calls the package websockets in an old way; its threads would stop at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:ssl_context is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder, ports = tmp_path_factory.mktemp("deployment"), free_ports()
    with deployed(folder, ports, 120, "--allow-plain", "--privacy-budget", "1") as found:
        yield found
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("localhost", port)) != 0
    assert not Path("/tmp/nvflare").exists() or not list(Path("/tmp/nvflare").rglob("*-*-*-*-*"))


@pytest.fixture(scope="module")
def session(deployment):
    with jobs.session(deployment.kits / ADMINISTRATOR, 20.0) as found:
        yield found


def same(ours: Path, theirs: Path) -> None:
    """Two folders of results, bit for bit, every stage."""
    a, b = (anndata.read_h5ad(folder / "fit.h5ad") for folder in (ours, theirs))
    assert set(a.varm) == set(b.varm)
    for name in a.varm:
        columns = a.varm[name]
        pairs = {None: columns} if isinstance(columns, np.ndarray) else dict(columns.items())
        for key in pairs:
            one, other = (x.varm[name] if key is None else x.varm[name][key] for x in (a, b))
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    compare(dict(a.uns["de"]), dict(b.uns["de"]))
    for name in ("results.csv", "genes.csv", "cells.csv"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    one, other = (json.loads((f / "run.json").read_text()) for f in (ours, theirs))
    assert one["rounds_by_stage"] == other["rounds_by_stage"]


def compare(a, b) -> None:
    if isinstance(a, dict):
        assert set(a) == set(b)
        for name in set(a) - {"seconds"}:
            compare(a[name], b[name])
    else:
        np.testing.assert_array_equal(a, b)


def done(command) -> str:
    said, _ = command.communicate(timeout=240)
    assert command.returncode == 0, said
    return said


def test_results_are_those_of_the_simulation_under_masks(deployment):
    options = ("--test", "lrt", "--shrink", "normal", "--also", "batch[T.batch_2]")
    said = done(deployment.run("masked", *options))
    assert "rounds; " in said
    assert "Traceback" not in said
    theirs = deployment.simulated("simulated", *options)
    same(deployment.folder / "masked", theirs)
    for name in theirs.glob("[rs][eh]*_*.csv"):  # of both contrasts: tests and shrunken
        assert (deployment.folder / "masked" / name.name).read_text() == name.read_text()
    for site in SITES:
        (stays,) = (deployment.kits / site / "results").iterdir()
        own = theirs / "sites" / site
        assert (stays / "samples.csv").read_text() == (own / "samples.csv").read_text()
        a, b = (anndata.read_h5ad(folder / "fitted.h5ad").X for folder in (stays, own))
        np.testing.assert_array_equal(a, b)
        told = pd.read_csv(deployment.kits / site / "disclosure.csv")
        numbers = told[told["shape"].astype(str).str.contains("x")]
        assert (numbers["masked"] == True).all()  # noqa: E712 (the column has nothing, too)


@pytest.mark.slow
def test_results_are_those_of_the_simulation_without_masks(deployment):
    done(deployment.run("plain", "--no-masks"))
    theirs = deployment.simulated("simulated-plain", "--no-masks")
    same(deployment.folder / "plain", theirs)
    # What came from each site, too.
    a, b = (pd.read_csv(deployment.folder / f / "disclosure.csv") for f in ("plain", theirs.name))
    # The digests of design rows are under a new key in every run, and order their counts alike.
    pd.testing.assert_frame_equal(a, b)


def test_what_sites_do_not_allow_is_said_in_one_line(deployment):
    command = deployment.run("refused", "--site", "cheung", "--site", "pickrell")
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 2
    says = r"error: site (cheung|pickrell) refuses: 2 sites; this one insists on 3 \(--min-sites\)"
    assert re.fullmatch(says, said.splitlines()[-1])
    assert not (deployment.folder / "refused").exists()


@pytest.mark.slow
def test_totals_with_noise_are_published_for_their_cost(deployment):
    genes, out = deployment.folder / "genes.txt", deployment.folder / "published"
    genes.write_text("gene_1\ngene_2\n")
    words = ("federated", "publish", deployment.kits / ADMINISTRATOR, "--by", "condition")
    done = deployment.do(*words, "--genes", genes, "--rho", "0.75", "--out", out)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "3 sites: 2 genes in 2 groups of condition" in said
    assert "rho 0.75 (epsilon 7.19 at delta 1e-06) of every site's budget is spent" in said
    table = pd.read_csv(out / "published.csv")
    assert list(table.columns) == ["gene", "condition", "samples", "mean", "noise"]
    noise = json.loads((out / "run.json").read_text())["publication"]["noise_of_samples"]
    assert (np.abs(table["samples"] - 18) < 6 * noise).all()  # in 10^-8 of all cases more
    for site in SITES:
        spent = pd.read_csv(deployment.kits / site / "privacy.csv")
        assert list(spent["about"]) == ["2 genes by condition"]
        told = pd.read_csv(deployment.kits / site / "disclosure.csv")
        told = told[told["stage"] == "publication"]
        assert list(told["masked"].astype(str)) == ["True"] * 4 + ["nan"]


def wait(session, name: str, status: str) -> jobs.Status:
    end = time.monotonic() + 60
    while True:
        found = jobs.job_status(session, name)
        if found.state.startswith(status) and found.detail:  # FLARE writes this one later
            return found
        assert time.monotonic() < end, found
        time.sleep(0.3)


def written(deployment: Deployment, name: str, classes: kits.Classes = kits.CLASSES) -> Path:
    return jobs.write_job(
        deployment.folder / name, "trial", SITES, {"plan": "nothing"}, {}, classes=classes
    )


def test_code_in_a_job_is_refused(deployment, session):
    folder = written(deployment, "custom")
    (folder / "app" / "custom").mkdir()
    (folder / "app" / "custom" / "own.py").write_text("print('here')\n")
    name = jobs.submit(session, folder)
    refused = jobs.Status("FINISHED:FAILED_TO_RUN", "server: BYOC not permitted")
    assert wait(session, name, "FINISHED") == refused


def test_code_in_a_container_is_refused_by_the_site(deployment, session):
    folder = written(deployment, "container")
    meta = json.loads((folder / "meta.json").read_text())
    meta["launcher_spec"] = {"cheung": {"docker": {"image": "own"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    state, detail = wait(session, jobs.submit(session, folder), "FINISHED")
    assert state == "FINISHED:FAILED_TO_RUN"
    assert "cheung: NVFLARE_ERROR: BYOC not permitted" in detail


def test_other_classes_are_refused(deployment, session):
    other = kits.CLASSES._replace(site="nvflare.app_common.np.np_trainer.NPTrainer")
    name = jobs.submit(session, written(deployment, "other", other))
    assert wait(session, name, "FINISHED").state != "FINISHED:COMPLETED"


@pytest.mark.parametrize(
    "command",
    [
        *("ls server", "ls cheung", "pwd cheung", "cat cheung local/roster.json"),
        *("sys_info client cheung", "shutdown client cheung", "restart client cheung"),
        *("report_env cheung", "shutdown server", "remove_client cheung", "register_study own"),
        *("dead cheung {}", "get_job_log {}", "app_command {} own", "clone_job {}"),
    ],
)
def test_nothing_but_jobs_is_allowed(deployment, session, command):
    """Sites refuse in the text of an answer that the coordinator passes on as a good one."""
    job = next((deployment.kits / COORDINATOR / "jobs").glob("*-*-*-*-*")).name
    answer = str(session.api.do_command(command.format(job)))
    assert "not authorized" in answer.lower().replace("_", " ")
    assert all(one.poll() is None for one in deployment.commands.values())


def test_a_kit_of_another_authority_does_not_get_in(deployment):
    server = json.loads((deployment.kits / "cheung" / "startup/fed_client.json").read_text())
    port = int(server["servers"][0]["service"]["target"].rpartition(":")[2])
    other = deployment.folder / "other-kits"
    found = kits.provision(project("north", "south", ports=(port, 1)), other)
    with participants.start(found["north"]) as stranger:
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"certificate refused at localhost:{port}") as error:
            stranger.ready(30.0)
        assert time.monotonic() - begun < 20
    assert "\n" not in str(error.value)
    assert not participants._processes(found["north"])


def test_who_cannot_come_up_says_why(deployment, tmp_path):
    with pytest.raises(InputError, match="localhost is running already: end process"):
        participants.start(deployment.kits / COORDINATOR)
    server = json.loads((deployment.kits / COORDINATOR / "startup/fed_server.json").read_text())
    found = kits.provision(
        project("a", "b", ports=(server["servers"][0]["admin_port"], free_ports()[0])),
        tmp_path / "kits",
    )
    with pytest.raises(InputError, match=r"port \d+ cannot be had"):
        participants.start(found["localhost"])


def test_no_session_without_a_coordinator(tmp_path):
    alone = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "alone")
    with (
        pytest.raises(InputError, match="no session with the coordinator at localhost:"),
        jobs.session(alone[ADMINISTRATOR], 2.0),
    ):
        pass
