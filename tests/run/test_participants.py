import logging
import shutil
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("nvflare")

from loopback import free_ports, project

from expressway._errors import InputError
from expressway.cli import follow
from expressway.run import kits, participants
from expressway.run.jobs import Status


def test_who_has_no_coordinator_says_so(tmp_path):
    alone = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "alone")
    with (
        participants.start(alone["a"]) as site,
        pytest.raises(InputError, match=r"a is not up after \d s: no coordinator at localhost:\d+"),
    ):
        site.ready(3.0)


# Starts a site that never finds its coordinator, and waits for a signal.
BEGINS = """
import sys, time
from pathlib import Path
from expressway.run import participants

with participants.start(Path(sys.argv[1])):
    print("started", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_stops_what_it_started(tmp_path, number):
    kit = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "kits")["a"]
    line = [sys.executable, "-c", BEGINS, str(kit)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"started\n"
        assert len(participants._processes(kit)) == 1
        command.send_signal(number)
        assert command.wait(20) == (128 + number if number == signal.SIGTERM else -number)
    assert not participants._processes(kit)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return kits.provision(project("a", "b", ports=free_ports()), tmp_path_factory.mktemp("k") / "k")


def copied(made, tmp_path, name):
    return shutil.copytree(made[name], tmp_path / name)


def refused(kit, match):
    with pytest.raises(InputError, match=match):
        participants.start(kit)
    assert not participants._processes(kit)
    assert not (kit / "log").exists()


def test_keys_of_another_kit_are_refused_before_anything_is_started(made, tmp_path):
    for kit in made.values():
        role = kits.read_json(kit / "local" / "roster.json")["role"]
        participants.check_keys(kits.read_kit(kit, role))
    kit = copied(made, tmp_path, "a")
    shutil.copy(made["b"] / "startup" / "client.crt", kit / "startup")
    refused(kit, r"client.key is not the private key of .*client.crt; use the files of one kit")
    shutil.copy(made["b"] / "startup" / "client.key", kit / "startup")
    refused(kit, r"client.crt is the certificate of b, not of a; use the files of one kit")
    other = kits.provision(project("a", "b"), tmp_path / "other")
    shutil.copy(other["a"] / "startup" / "rootCA.pem", kit / "startup")
    refused(kit, r"are no certificate, its key and their root")
    coordinator = copied(made, tmp_path, "localhost")
    (coordinator / "startup" / "server.key").unlink()
    refused(coordinator, r"server.key is missing")


@pytest.mark.parametrize(
    ("days", "match"),
    [
        (361, r"client.crt expired on [-\d]{10}; ask the project's lead for new kits"),
        (-1, r"client.crt is not valid before [-\d]{10} [:\d]{5} UTC; set the clock"),
    ],
)
def test_a_certificate_has_its_time(made, tmp_path, monkeypatch, days, match):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz or UTC) + timedelta(days=days)

    monkeypatch.setattr(participants, "datetime", Later)
    refused(copied(made, tmp_path, "a"), match)


def test_a_start_removes_what_is_left_of_earlier_runs(made, tmp_path):
    kit = copied(made, tmp_path, "a")
    kept = [
        "results/R/samples.csv",
        "stages/s",
        "disclosure.csv",
        "local/secret",
        f"x-{uuid.uuid4()}/f",
    ]
    own = f"results/{uuid.uuid4()}/fitted.h5ad"  # of that name, too
    gone = [f"{uuid.uuid4()}/log.txt", f"{uuid.uuid4()}/app/f", f"transfer/{uuid.uuid4()}/f"]
    gone.append(f"jobs/{uuid.uuid4()}/meta.json")
    for name in (*kept, own, *gone, "log/console.txt"):
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text("old")
    link = kit / str(uuid.uuid4())
    link.symlink_to(made["b"])
    before = {path for path in kit.rglob("*") if path.is_file()}
    with participants.start(kit) as site:
        assert site.process.poll() is None
        assert not any((kit / name).exists() for name in gone)
        assert {path for path in before if not path.is_file()} == {kit / name for name in gone}
        assert (kit / "log" / "console.old.txt").read_text() == "old"
        assert (kit / "log" / "console.txt").read_text() != "old"
    assert link.is_symlink()


LOG = """\
2026-11-22 16:16:57,529 INFO client: Wait for engine to be created.
2026-11-22 16:17:05,618 ERROR driver: Error sending frame
"""
FAILED = """\
2026-11-22 16:17:35,621 ERROR mpm: Traceback (most recent call last):
  File "client_train.py", line 172, in main
    raise RuntimeError("Login failed.")
RuntimeError: Login failed.

2026-11-22 16:17:38,622 ERROR driver: Error sending frame again
"""


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("", None),
        (LOG, "driver: Error sending frame"),
        (LOG + FAILED, "RuntimeError: Login failed"),
        (LOG + FAILED.splitlines()[0], "mpm: Traceback (most recent call last):"),
    ],
)
def test_what_was_raised_is_told_not_that_it_was(log, why):
    assert participants._error(log) == why


MISSING = Status("SUBMITTED", "2026-11-22 16:17:35: missing required site east")


def test_a_run_that_does_not_begin_says_once_why_and_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(follow, "_LOOK", 0.01)
    monkeypatch.setattr(follow, "_SAID", 0.05)
    monkeypatch.setattr(follow, "_BEGUN", 0.3)
    seen = []
    with (
        caplog.at_level(logging.WARNING, "expressway"),
        pytest.raises(InputError, match=r"not begun in 0 s: site east is not .*, and run again$"),
    ):
        follow._follow(lambda: MISSING, seen.append)
    assert set(seen) == {"submitted"}
    assert caplog.messages == [
        "the run has not begun: site east is not connected; start 'expressway federated site' there"
    ]
    assert follow._lacks("SUBMITTED", "").startswith(
        "the coordinator is at work on others (4 at once)"
    )
    assert follow._lacks("SUBMITTED", "2026-11-22 16:17:35: not enough") == (
        "not enough; see that all sites are connected"
    )


def test_a_run_that_has_begun_may_take_long(monkeypatch, caplog):
    monkeypatch.setattr(follow, "_LOOK", 0.01)
    monkeypatch.setattr(follow, "_SAID", 0.05)
    monkeypatch.setattr(follow, "_BEGUN", 0.05)
    states = iter([MISSING, *[Status("RUNNING", "")] * 30, Status("FINISHED:COMPLETED", "")])
    seen = []
    follow._follow(lambda: next(states), seen.append)
    assert seen == ["submitted", *["running"] * 30, "finished:completed"]
    assert not caplog.messages


# Serves a site that is up at once.
SERVES = """
import sys
from pathlib import Path
from expressway.cli import deploy
from expressway.run.participants import Participant

Participant.ready = lambda self: None
deploy._serve(Path(sys.argv[1]), "site {0.name}")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_who_serves_says_that_it_ended(made, tmp_path, number, code):
    kit = copied(made, tmp_path, "a")
    line = [sys.executable, "-c", SERVES, str(kit)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == b"site a; Ctrl-C ends it\n"
        command.send_signal(number)
        assert command.wait(20) == code
        # Rich repeats a line that it was printing when the signal came.
        assert command.stdout.read().endswith(b"ended\n")
        assert command.stderr.read() == b""
    assert not participants._processes(kit)
