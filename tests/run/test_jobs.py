"""One deployment on loopback, its jobs and its processes: two sites, an administrator."""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("nvflare")

import psutil
from loopback import ADMINISTRATOR, CLASSES, free_ports, project

from expressway._errors import InputError
from expressway.run import jobs, kits, participants
from expressway.run.participants import Participant

# FLARE 2.9 calls the package websockets in an old way; its threads would stop at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:ssl_context is deprecated:DeprecationWarning")

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


class Deployment(NamedTuple):
    folder: Path
    kits: dict[str, Path]
    running: dict[str, Participant]
    session: Any


def begin(kit: Path) -> Participant:
    return participants.start(kit, {"PYTHONPATH": str(kit.parents[1])}, classes=CLASSES)


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
        with jobs.session(found[ADMINISTRATOR], 20.0) as session:
            yield Deployment(folder, found, running, session)
    finally:
        for participant in running.values():
            participant.stop()


def written(deployment: Deployment, name: str, seconds: float = 0.0) -> Path:
    return jobs.write_job(
        deployment.folder / name,
        "trial",
        ["north", "south"],
        {"seconds": seconds},
        {"word": "yes"},
        classes=CLASSES,
    )


def wait(deployment: Deployment, name: str, status: str) -> jobs.Status:
    end = time.monotonic() + 40
    while True:
        found = jobs.job_status(deployment.session, name)
        if found.state.startswith(status) and found.detail:  # FLARE writes this one later
            return found
        assert time.monotonic() < end, found
        time.sleep(0.3)


def test_no_session_without_a_coordinator(tmp_path):
    alone = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "alone")
    with (
        pytest.raises(InputError, match="no session with the coordinator at localhost:"),
        jobs.session(alone[ADMINISTRATOR], 2.0),
    ):
        pass


def test_a_job_runs_and_its_result_is_fetched(deployment, capfd):
    name = jobs.submit(deployment.session, written(deployment, "job"))
    with pytest.raises(InputError, match=f"the job {name} has no result yet|no result of the job"):
        jobs.fetch(deployment.session, name, deployment.folder / "early")
    assert wait(deployment, name, "FINISHED").state == "FINISHED:COMPLETED"
    out = jobs.fetch(deployment.session, name, deployment.folder / "result")
    assert (out / "said.txt").read_text() == "[('north', 'yes'), ('south', 'yes')]"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match="result is there; rename or remove it"):
        jobs.fetch(deployment.session, name, out)
    assert any((deployment.kits["localhost"] / "jobs").rglob(name))
    assert not list(Path("/tmp/nvflare").rglob(name))  # where FLARE keeps them by default


def test_code_in_a_job_is_refused(deployment):
    folder = written(deployment, "custom")
    (folder / "app" / "custom").mkdir()
    (folder / "app" / "custom" / "own.py").write_text("print('here')\n")
    name = jobs.submit(deployment.session, folder)
    refused = jobs.Status("FINISHED:FAILED_TO_RUN", "server: BYOC not permitted")
    assert wait(deployment, name, "FINISHED") == refused


def test_code_in_a_container_is_refused_by_the_site(deployment):
    folder = written(deployment, "container")
    meta = json.loads((folder / "meta.json").read_text())
    meta["launcher_spec"] = {"north": {"docker": {"image": "own"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    name = jobs.submit(deployment.session, folder)
    state, detail = wait(deployment, name, "FINISHED")
    assert state == "FINISHED:FAILED_TO_RUN"
    assert "north: NVFLARE_ERROR: BYOC not permitted" in detail


def test_other_classes_are_refused(deployment):
    other = CLASSES._replace(site="nvflare.app_common.np.np_trainer.NPTrainer")
    folder = deployment.folder / "other"
    jobs.write_job(folder, "trial", ["north", "south"], {"seconds": 0.0}, {}, classes=other)
    name = jobs.submit(deployment.session, folder)
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
    assert not participants._processes(found["north"])


def test_who_cannot_come_up_says_why(deployment, tmp_path):
    with pytest.raises(InputError, match="localhost is running already: end process"):
        begin(deployment.kits["localhost"])
    server = json.loads((deployment.kits["localhost"] / "startup/fed_server.json").read_text())
    found = kits.provision(
        project("a", "b", ports=(server["servers"][0]["admin_port"], free_ports()[0])),
        tmp_path / "kits",
    )
    with pytest.raises(InputError, match=r"port \d+ cannot be had"):
        participants.start(found["localhost"])


def test_stop_leaves_no_process(deployment):
    """The last test: a site whose parent was killed in the middle of a job, and then all others."""
    name = jobs.submit(deployment.session, written(deployment, "long", 60.0))
    wait(deployment, name, "RUNNING")
    end = time.monotonic() + 20
    while len(participants._processes(deployment.kits["north"])) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    children = participants._processes(deployment.kits["north"])
    site = deployment.running["north"]
    site.process.kill()
    begun = time.monotonic()
    site.stop()
    assert time.monotonic() - begun < 15
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    jobs.abort(deployment.session, name)
    assert wait(deployment, name, "FINISHED").state != "FINISHED:COMPLETED"
    for participant in deployment.running.values():
        participant.stop()
    mine = psutil.process_iter(["environ"])
    folder = str(deployment.folder)
    left = [p for p in mine if folder in str((p.info["environ"] or {}).get("EXPRESSWAY_KIT"))]
    assert not [p for p in left if p.pid != os.getpid()]
