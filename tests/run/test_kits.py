"""Kits, processes and jobs on loopback: one coordinator, two sites, an administrator."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("nvflare")

import psutil

from expressway._errors import InputError
from expressway.run import kits
from expressway.run.kits import Classes, Kit, Member, Participant, Project

# FLARE 2.9 calls the package websockets in an old way; its threads would stop at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:ssl_context is deprecated:DeprecationWarning")

CLASSES = Classes("tiny.Site", "tiny.Coordinator")
ADMINISTRATOR = "admin@example.org"
# What a job of these tests is: sites say a word, the coordinator writes what they said.
TINY = """
import time
from pathlib import Path
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply


class Coordinator(Controller):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        pass

    def process_result_of_unknown_task(self, *_, **__):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        engine, said = fl_ctx.get_engine(), {}
        while len(said) < 2 and not abort_signal.triggered:
            names = [client.name for client in engine.get_clients()]
            found = engine.send_aux_request(names, "say", Shareable(), 1.0, fl_ctx, optional=True)
            good = {n: r for n, r in found.items() if r.get_return_code() == ReturnCode.OK}
            said = {name: reply["word"] for name, reply in good.items()}
            time.sleep(0.2)
        folder = Path(engine.get_workspace().get_run_dir(fl_ctx.get_job_id()))
        (folder / "said.txt").write_text(repr(sorted(said.items())))
        end = time.time() + self.seconds
        while time.time() < end and not abort_signal.triggered:
            time.sleep(0.2)


class Site(Executor):
    def __init__(self, word):
        super().__init__()
        self.word = word

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler("say", self.say)

    def say(self, topic, request, fl_ctx):
        reply = make_reply(ReturnCode.OK)
        reply["word"] = self.word
        return reply

    def execute(self, *_):
        return make_reply(ReturnCode.OK)
"""


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        return one.getsockname()[1], other.getsockname()[1]


def project(*sites: str, ports: tuple[int, int] = (8102, 8103)) -> Project:
    return Project(
        "trial",
        Member("localhost", "institute"),
        *ports,
        Member(ADMINISTRATOR, "institute"),
        tuple(Member(name, "hospital") for name in sites),
    )


# --- the project's file -------------------------------------------------------------------------

FILE = """
name: trial
coordinator: {name: coordinator.example.org, organization: institute}
administrator: {name: admin@example.org, organization: institute}
sites:
  - {name: north, organization: hospital_a}
  - {name: south, organization: hospital_b}
"""


def test_a_project_is_read(tmp_path):
    path = tmp_path / "project.yml"
    path.write_text(FILE)
    found = kits.read_project(path)
    assert found.sites == (Member("north", "hospital_a"), Member("south", "hospital_b"))
    assert (found.port, found.admin_port) == (8102, 8103)
    path.write_text(FILE.replace("org, organization", "org, port: 9000, organization", 1))
    assert kits.read_project(path).port == 9000


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: trial", "name: [", "is no YAML"),
        (FILE, "trial", "a project is 'trial'; needed are its keys name, coordinator"),
        ("name: trial", "", "a project has no 'name'"),
        ("name: trial", "name: ../trial", "name is '../trial'; needed is letters"),
        ("name: trial", "name: trial\nrounds: 3", "unknown key 'rounds'; its keys are name, "),
        ("north, organization: hospital_a", "north", "a site has no 'organization'"),
        ("  - {name: south, organization: hospital_b}", "", "fewer than two sites"),
        ("south", "North", "the name 'north' is taken"),
        ("south", "server", "the name 'server' is taken"),
        ("south", "south pole", "site name is 'south pole'; needed is letters, digits, - and _"),
        ("south", "7", "site name is 7; needed is letters"),
        ("hospital_a", "hospital-a", "organization of the site is 'hospital-a'"),
        ("admin@example.org", "admin", "administrator name is 'admin'; needed is an address"),
        ("coordinator.example.org", "-x-", "coordinator name is '-x-'; needed is the name of a"),
        ("example.org, org", "example.org, port: 8103, org", "ports are 8103 and 8103"),
        ("example.org, org", "example.org, port: true, org", "ports are True and 8103"),
    ],
)
def test_a_mistake_in_a_project_is_one_line(tmp_path, old, new, says):
    path = tmp_path / "project.yml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        kits.read_project(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_project_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none.yml cannot be read \(No such file"):
        kits.read_project(tmp_path / "none.yml")


# --- kits ---------------------------------------------------------------------------------------


def test_kits_are_closed_and_say_whose_they_are(tmp_path, capfd):
    out = tmp_path / "kits"
    found = kits.provision(project("south", "north"), out)
    assert capfd.readouterr() == ("", "")
    assert sorted(found) == [ADMINISTRATOR, "localhost", "north", "south"]
    assert [path.name for path in tmp_path.iterdir()] == ["kits"]
    for path in (out, *out.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    one = kits.read_kit(found["north"], "site")
    assert one == Kit(out / "north", "site", "north", "trial", "localhost", ("north", "south"))
    assert kits.read_kit(found[ADMINISTRATOR], "administrator").name == ADMINISTRATOR
    key = (out / "authority" / "root.key").read_text()
    assert key.startswith("-----BEGIN")
    for folder in found.values():
        assert all(key not in p.read_text() for p in folder.rglob("*") if p.is_file())
    for name, line in (("north", CLASSES.site), ("localhost", CLASSES.coordinator)):
        kits.prepare(found[name], classes=CLASSES)
        text = (found[name] / "local" / "resources.json").read_text()
        assert json.loads(text)["class_allow_list"] == [line]
        assert "/tmp/nvflare" not in text
    with pytest.raises(InputError, match=r"kits is there; rename it, or name a folder"):
        kits.provision(project("south", "north"), out)
    with pytest.raises(InputError, match=r"kits is there; rename it, or name a folder"):
        kits.provision(project("south", "north", "east", ports=(1, 2)), out)


def test_a_site_is_added_later(tmp_path):
    out = tmp_path / "kits"
    kits.provision(project("south", "north"), out)
    before = {path: path.read_bytes() for path in out.rglob("*.crt")}
    found = kits.provision(project("south", "north", "east"), out)
    assert list(found) == ["east"]
    assert all(path.read_bytes() == data for path, data in before.items())
    roots = {path.read_bytes() for path in out.rglob("rootCA.pem")}
    assert len(roots) == 1
    assert kits.read_kit(out / "north", "site").sites == ("east", "north", "south")
    with pytest.raises(InputError, match="is there; rename it"):
        kits.provision(project("south", "north", "east"), out)


def test_a_kit_of_another_role_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no kit .*name the folder of a site's kit"):
        kits.read_kit(tmp_path, "site")
    with pytest.raises(InputError, match="is no kit"):
        kits.start(tmp_path)
    out = kits.provision(project("south", "north"), tmp_path / "kits")
    with pytest.raises(InputError, match="is the kit of north, a site; needed is a coordinator's"):
        kits.read_kit(out["north"], "coordinator")
    with pytest.raises(InputError, match="is an administrator's kit"):
        kits.start(out[ADMINISTRATOR])


# --- a deployment -------------------------------------------------------------------------------


class Deployment(NamedTuple):
    folder: Path
    kits: dict[str, Path]
    running: dict[str, Participant]
    session: Any


def begin(kit: Path) -> Participant:
    return kits.start(kit, {"PYTHONPATH": str(kit.parents[1])}, classes=CLASSES)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "tiny.py").write_text(TINY)
    found = kits.provision(project("north", "south", ports=free_ports()), folder / "kits")
    running: dict[str, Participant] = {}
    try:
        for name in ("localhost", "north", "south"):
            running[name] = begin(found[name])
        for participant in running.values():
            participant.ready(60.0)
        with kits.session(found[ADMINISTRATOR], 20.0) as session:
            yield Deployment(folder, found, running, session)
    finally:
        for participant in running.values():
            participant.stop()


def job(deployment: Deployment, name: str, seconds: float = 0.0) -> Path:
    return kits.write_job(
        deployment.folder / name,
        "trial",
        ["north", "south"],
        {"seconds": seconds},
        {"word": "yes"},
        classes=CLASSES,
    )


def wait(deployment: Deployment, name: str, status: str) -> kits.Status:
    end = time.monotonic() + 40
    while True:
        found = kits.job_status(deployment.session, name)
        if found.state.startswith(status) and found.detail:  # FLARE writes this one later
            return found
        assert time.monotonic() < end, found
        time.sleep(0.3)


def test_a_job_runs_and_its_result_is_fetched(deployment, capfd):
    name = kits.submit(deployment.session, job(deployment, "job"))
    with pytest.raises(InputError, match=f"the job {name} has no result yet|no result of the job"):
        kits.fetch(deployment.session, name, deployment.folder / "early")
    assert wait(deployment, name, "FINISHED").state == "FINISHED:COMPLETED"
    out = kits.fetch(deployment.session, name, deployment.folder / "result")
    assert (out / "said.txt").read_text() == "[('north', 'yes'), ('south', 'yes')]"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match="result is there; rename or remove it"):
        kits.fetch(deployment.session, name, out)
    assert any((deployment.kits["localhost"] / "jobs").rglob(name))
    assert not list(Path("/tmp/nvflare").rglob(name))  # where FLARE keeps them by default


def test_code_in_a_job_is_refused(deployment):
    folder = job(deployment, "custom")
    (folder / "app" / "custom").mkdir()
    (folder / "app" / "custom" / "own.py").write_text("print('here')\n")
    name = kits.submit(deployment.session, folder)
    refused = kits.Status("FINISHED:FAILED_TO_RUN", "server: BYOC not permitted")
    assert wait(deployment, name, "FINISHED") == refused


def test_code_in_a_container_is_refused_by_the_site(deployment):
    folder = job(deployment, "container")
    meta = json.loads((folder / "meta.json").read_text())
    meta["launcher_spec"] = {"north": {"docker": {"image": "own"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    name = kits.submit(deployment.session, folder)
    state, detail = wait(deployment, name, "FINISHED")
    assert state == "FINISHED:FAILED_TO_RUN"
    assert "north: NVFLARE_ERROR: BYOC not permitted" in detail


def test_other_classes_are_refused(deployment):
    other = CLASSES._replace(site="nvflare.app_common.np.np_trainer.NPTrainer")
    folder = deployment.folder / "other"
    kits.write_job(folder, "trial", ["north", "south"], {"seconds": 0.0}, {}, classes=other)
    name = kits.submit(deployment.session, folder)
    assert wait(deployment, name, "FINISHED").state != "FINISHED:COMPLETED"


@pytest.mark.parametrize(
    "command",
    [
        *("ls server", "ls north", "pwd north", "cat north local/roster.json"),
        *("sys_info client north", "shutdown client north", "restart client north"),
        *("report_env north", "shutdown server", "remove_client north", "register_study own"),
        *("dead north {}", "get_job_log {}", "app_command {} own", "clone_job {}"),
    ],
)
def test_nothing_but_jobs_is_allowed(deployment, command):
    """Sites refuse in the text of an answer that the coordinator passes on as a good one."""
    job = next((deployment.kits["localhost"] / "jobs").glob("*-*-*-*-*")).name
    answer = str(deployment.session.api.do_command(command.format(job)))
    assert "not authorized" in answer.lower().replace("_", " ")
    assert all(one.process.poll() is None for one in deployment.running.values())


def test_a_kit_of_another_authority_does_not_get_in(deployment):
    server = json.loads((deployment.kits["north"] / "startup/fed_client.json").read_text())
    port = int(server["servers"][0]["service"]["target"].rpartition(":")[2])
    other = deployment.folder / "other-kits"
    found = kits.provision(project("north", "south", ports=(port, 1)), other)
    with begin(found["north"]) as stranger:
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"certificate refused at localhost:{port}") as error:
            stranger.ready(30.0)
        assert time.monotonic() - begun < 20
    assert "\n" not in str(error.value)
    assert not kits._processes(found["north"])


def test_who_cannot_come_up_says_why(deployment, tmp_path):
    with pytest.raises(InputError, match="localhost is running already: end process"):
        begin(deployment.kits["localhost"])
    server = json.loads((deployment.kits["localhost"] / "startup/fed_server.json").read_text())
    found = kits.provision(
        project("a", "b", ports=(server["servers"][0]["admin_port"], free_ports()[0])),
        tmp_path / "kits",
    )
    with pytest.raises(InputError, match=r"port \d+ cannot be had"):
        kits.start(found["localhost"])
    alone = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "alone")
    with (
        kits.start(alone["a"]) as site,
        pytest.raises(InputError, match=r"a is not up after 3 s: no coordinator at localhost:\d+"),
    ):
        site.ready(3.0)
    with (
        pytest.raises(InputError, match="no session with the coordinator at localhost:"),
        kits.session(alone[ADMINISTRATOR], 2.0),
    ):
        pass


# Starts a site that never finds its coordinator, and waits for a signal.
BEGINS = """
import sys, time
from pathlib import Path
from expressway.run import kits

with kits.start(Path(sys.argv[1])):
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
        assert len(kits._processes(kit)) == 1
        command.send_signal(number)
        assert command.wait(20) == (128 + number if number == signal.SIGTERM else -number)
    assert not kits._processes(kit)


def test_stop_leaves_no_process(deployment):
    """The last test: a site whose parent was killed in the middle of a job, and then all others."""
    name = kits.submit(deployment.session, job(deployment, "long", 60.0))
    wait(deployment, name, "RUNNING")
    end = time.monotonic() + 20
    while len(kits._processes(deployment.kits["north"])) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    children = kits._processes(deployment.kits["north"])
    site = deployment.running["north"]
    site.process.kill()
    begun = time.monotonic()
    site.stop()
    assert time.monotonic() - begun < 15
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    kits.abort(deployment.session, name)
    assert wait(deployment, name, "FINISHED").state != "FINISHED:COMPLETED"
    for participant in deployment.running.values():
        participant.stop()
    mine = psutil.process_iter(["environ"])
    folder = str(deployment.folder)
    left = [p for p in mine if folder in str((p.info["environ"] or {}).get("EXPRESSWAY_KIT"))]
    assert not [p for p in left if p.pid != os.getpid()]
