import signal
import subprocess
import sys

import pytest

pytest.importorskip("nvflare")

from loopback import free_ports, project

from expressway._errors import InputError
from expressway.run import kits, participants


def test_who_has_no_coordinator_says_so(tmp_path):
    alone = kits.provision(project("a", "b", ports=free_ports()), tmp_path / "alone")
    with (
        participants.start(alone["a"]) as site,
        pytest.raises(InputError, match=r"a is not up after 3 s: no coordinator at localhost:\d+"),
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
