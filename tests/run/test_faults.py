"""Participants that die or hang at a random moment of each stage; what is said, and that nothing
that was finished is lost."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from deployment import COORDINATOR, SITES, deployed
from loopback import free_ports
from test_deployment import done, same

from expressway.models import deseq

STAGES = ("agreement", *deseq.STAGES)
PATIENCE = 5.0
GENES = 500
CASES = [(stage, fault) for stage in STAGES for fault in ("process", "site", "coordinator")]
CASES += [("means", "hang"), ("outliers", "hang")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with deployed(folder, free_ports(), GENES) as found:
        found.simulated("simulated")
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "fault"), CASES)
def test_a_fault_is_said_in_time_and_resumed(deployment, stage, fault, record_property):
    found, out = random.Random(f"{stage} {fault}"), f"{stage} {fault}"
    victim = COORDINATOR if fault == "coordinator" else found.choice(SITES)
    messages = len(deployment.disclosed(SITES[0]))
    stages = deployment.kits / COORDINATOR / "stages"
    command = deployment.run(out, "--patience", str(PATIENCE))
    deployment.wait_for(stage, messages)
    time.sleep(found.uniform(0, 0.1))
    jobs = fault in ("process", "hang")
    deployment.send(victim, signal.SIGSTOP if fault == "hang" else signal.SIGKILL, jobs=jobs)
    begun = time.monotonic()
    said, _ = command.communicate(timeout=120)
    seconds = time.monotonic() - begun
    record_property("seconds", round(seconds, 1))
    record_property("said", said.strip())
    if fault == "hang":
        deployment.send(victim, signal.SIGKILL, jobs=True)
    assert command.returncode == 2, said
    *warnings, said = said.splitlines()
    assert all(line.startswith("warning: the run has not begun") for line in warnings)
    assert ("the coordinator" if fault == "coordinator" else f"site {victim}") in said
    assert "--resume" in said
    # FLARE's own way to the administrator takes up to ten seconds, on a machine that is busy more.
    assert seconds < PATIENCE + 40
    kept = {path.name for path in stages.glob("*/*.pickle")}
    expected = {f"{name.replace(' ', '-')}.pickle" for name in STAGES[1 : STAGES.index(stage)]}
    assert expected <= kept
    if fault in ("site", "coordinator"):
        deployment.stop(victim)
        deployment.start(victim)
    before = len(deployment.disclosed(SITES[0]))
    done(deployment.run(out, "--resume"))
    same(deployment.folder / out, deployment.folder / "simulated")
    again = [row["stage"] for row in deployment.disclosed(SITES[0])[before:]]
    # Nothing is asked twice of what was finished.
    assert not {path.removesuffix(".pickle").replace("-", " ") for path in kept} & {
        name.replace("-", " ") for name in again
    }
    record_property("messages", len(again))
    assert not list(stages.glob("*"))
    if "EXPRESSWAY_FAULTS" in os.environ:
        with Path(os.environ["EXPRESSWAY_FAULTS"]).open("a") as table:
            line = (stage, fault, victim, f"{seconds:.1f}", len(kept), len(again), said.strip())
            table.write("\t".join(map(str, line)) + "\n")
