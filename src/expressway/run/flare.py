"""Sites at the other end of NVIDIA FLARE: messages over its connections, faults named in time.

FLARE brings bytes between authenticated processes (mutual TLS), starts and ends them. Nothing else
of it is used: no tasks that sites would have to poll for, no aggregators, no code in jobs. A
coordinator posts a message to one site; while the site computes it says every few seconds that it
is at work, so that one which is dead or hangs is told from one which is slow.
"""

import hashlib
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any, NamedTuple

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from .participants import CONSOLE
from .protocol import ProtocolError

TOPIC = "expressway"
# Seconds after which a site that computes says that it does.
BEAT = 2.0
# Seconds that the process of a site may take until it is up.
START = 60.0
# Of what the administrator receives: the folder with the result.
RESULT = "result"
# Between two tries of reaching a site.
_PAUSE = 0.25


class Reach(NamedTuple):
    """How a site is reached."""

    post: Callable[[str, bytes, float], tuple[str, bytes] | None]
    """Sends what kind of message it is and its bytes, and waits so many seconds: what kind of
    reply it is and its bytes, or None where nothing came."""
    ended: Callable[[], bool]
    """Whether the run has been ended, by the administrator or because a process of it failed."""


class SiteLost(ProtocolError):
    """A site gives no sign of life, or no answer.

    Parameters
    ----------
    site, why
        Its name, and what of it is known.
    """

    def __init__(self, site: str, why: str) -> None:
        super().__init__(
            f"site {site} {why}; see that 'expressway federated site' runs there and the network "
            "is up, and go on with --resume"
        )
        self.site = site


class Ended(ProtocolError):
    """The run was ended from outside."""


class Aux:
    """`remote.Channel` to one site over FLARE.

    Parameters
    ----------
    name
        Of the site.
    reach
        How it is reached.
    patience
        Seconds without any sign of life after which a site is lost; `START` if they are more before
        the first one.
    limit
        Seconds after which one that says it is at work, and does not end, is lost too.
    """

    elsewhere = True

    def __init__(self, name: str, reach: Reach, patience: float, limit: float) -> None:
        self._name, self._reach, self._patience, self._limit = name, reach, patience, limit
        self._met = False

    def ask(self, body: bytes) -> bytes:
        """The answer.

        Raises
        ------
        SiteLost
            There is none in time.
        Ended
            The run has been ended.
        """
        key = _key(body)
        kind, data = "ask", body
        started = seen = time.monotonic()
        while True:
            wait = self._patience if kind == "ask" else min(2 * BEAT, self._patience)
            reply = self._reach.post(kind, data, wait)
            now = time.monotonic()
            patience = self._patience if self._met else max(self._patience, START)
            if self._reach.ended():
                message = "the run was ended; go on with --resume"
                raise Ended(message)
            if reply is None and now - seen >= patience:
                raise SiteLost(self._name, f"gave no sign of life for {now - seen:.0f} s")
            if reply is None:
                kind, data = "poll", key
                time.sleep(_PAUSE)
                continue
            self._met, seen, (state, found) = True, now, reply
            if state == "done":
                return found
            if now - started >= self._limit:
                why = f"has been at work on one message for {now - started:.0f} s: it hangs"
                raise SiteLost(self._name, why)
            # What was never received, or not kept, is sent again: a site answers it once.
            kind, data = ("poll", key) if state == "working" else ("ask", body)


class Desk:
    """A site's end: computes one message at a time, and says whether it is done.

    Parameters
    ----------
    answer
        The answer to a message. It is asked once for each message and must not raise.
    """

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._thread = ThreadPoolExecutor(1, "expressway-desk")
        self._lock = threading.Lock()
        self._key = b""
        self._at_work: Future[bytes] | None = None

    def receive(self, kind: str, data: bytes) -> tuple[str, bytes]:
        """What is to be said to the coordinator, after `BEAT` seconds at most."""
        with self._lock:
            key = _key(data) if kind == "ask" else data
            free = self._at_work is None or self._at_work.done()
            if kind == "ask" and key != self._key and free:
                self._key, self._at_work = key, self._thread.submit(self._answer, data)
            mine = self._at_work if key == self._key else None
        if mine is None:
            if kind == "ask":  # something else is computed still
                time.sleep(BEAT)
            return "unknown", b""
        try:
            return "done", mine.result(BEAT)
        except NotYet:
            return "working", b""

    def close(self) -> None:
        """Begin nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _key(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


class SiteExecutor(Executor):
    """A site's process of one run, as FLARE starts it. It takes no tasks: it answers messages."""

    def __init__(self) -> None:
        super().__init__()
        self._desk: Desk | None = None

    @abstractmethod
    def answerer(self, kit: Path, name: str) -> Callable[[bytes], bytes]:
        """What answers messages at the site of this kit and name; it must not raise."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Open and close the desk."""
        if event_type == EventType.START_RUN:
            engine: Any = fl_ctx.get_engine()
            kit = Path(engine.get_workspace().get_root_dir())
            self._desk = Desk(self.answerer(kit, str(fl_ctx.get_identity_name())))
            engine.register_aux_message_handler(TOPIC, self._receive)
        elif event_type == EventType.END_RUN and self._desk is not None:
            self._desk.close()

    def _receive(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:  # noqa: ARG002
        reply = make_reply(ReturnCode.OK)
        if self._desk is not None:
            state, found = self._desk.receive(str(request["kind"]), bytes(request["data"]))
            reply["state"], reply["data"] = state, found
        return reply

    def execute(
        self,
        task_name: str,
        shareable: Shareable,  # noqa: ARG002
        fl_ctx: FLContext,  # noqa: ARG002
        abort_signal: Signal,  # noqa: ARG002
    ) -> Shareable:
        """No task is taken."""
        self.logger.warning("task %s is refused", task_name)
        return make_reply(ReturnCode.TASK_UNKNOWN)


class Conductor(Controller):
    """The coordinator's process of one run, as FLARE starts it."""

    @abstractmethod
    def conduct(
        self,
        kit: Path,
        out: Path,
        sites: Mapping[str, Reach],
        failed: Callable[[], str | None],
    ) -> None:
        """The run.

        Parameters
        ----------
        kit
            The coordinator's.
        out
            An empty folder, of which the administrator receives what is written into it.
        sites
            How each site is reached.
        failed
            The site whose process has ended; None if none is known. FLARE then ends the run, and
            the processes of all other sites, so that nobody is reached any more.
        """

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """All of the run, from FLARE's side."""
        engine: Any = fl_ctx.get_engine()
        workspace, job = engine.get_workspace(), str(fl_ctx.get_job_id())
        out = Path(workspace.get_run_dir(job)) / RESULT
        out.mkdir()
        names = sorted(client.name for client in engine.get_clients())
        sites = {name: _reach(engine, name, abort_signal) for name in names}
        kit = Path(workspace.get_root_dir())
        self.conduct(kit, out, sites, lambda: failed_site(kit, job))

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is to be done before."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is to be done after."""

    def process_result_of_unknown_task(self, *args: Any, **kwargs: Any) -> None:
        """There are no tasks."""


def failed_site(kit: Path, job: str) -> str | None:
    """The site whose process made FLARE end a job, from what it printed (2.9, fed_server.py)."""
    console = kit / CONSOLE
    said = console.read_text(encoding="utf-8", errors="replace") if console.is_file() else ""
    line = re.search(rf"Failing job {re.escape(job)} due to reported failure from (\S+):", said)
    return line[1].partition(".")[0] if line else None


def _reach(engine: Any, name: str, abort_signal: Signal) -> Reach:
    """How to reach one site."""

    def post(kind: str, data: bytes, wait: float) -> tuple[str, bytes] | None:
        request = Shareable()
        request["kind"], request["data"] = kind, data
        with engine.new_context() as context:
            replies = engine.send_aux_request([name], TOPIC, request, wait, context, optional=True)
        reply = replies.get(name)
        if reply is None:
            return None
        if reply.get_return_code() == ReturnCode.TOPIC_UNKNOWN or (
            reply.get_return_code() == ReturnCode.OK and "state" not in reply
        ):
            time.sleep(_PAUSE)  # it is being started
            return "unknown", b""
        if reply.get_return_code() != ReturnCode.OK:
            return None
        return str(reply["state"]), bytes(reply["data"])

    return Reach(post, lambda: bool(abort_signal.triggered))
