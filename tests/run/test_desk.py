"""Faults of a site are told in time, and nothing is computed twice."""

import threading
import time

import pytest

flare = pytest.importorskip("expressway.run.flare", reason="nvflare is an extra")

Aux, Desk, Ended, Reach, SiteLost = (
    getattr(flare, name) for name in ("Aux", "Desk", "Ended", "Reach", "SiteLost")
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A beat of a twentieth of a second."""
    monkeypatch.setattr(flare, "BEAT", 0.05)
    monkeypatch.setattr(flare, "_PAUSE", 0.01)
    monkeypatch.setattr(flare, "START", 0.1)


def channel(post, ended=lambda: False, patience=0.5, limit=5.0):
    return Aux("north", Reach(post, ended), patience, limit)


def desk_of(answer):
    desk = Desk(answer)
    return desk, lambda kind, data, wait: desk.receive(kind, data)


def test_an_answer_that_takes_long_is_waited_for_and_computed_once():
    asked = []

    def slow(body):
        asked.append(body)
        time.sleep(0.4)
        return body[::-1]

    desk, post = desk_of(slow)
    assert channel(post).ask(b"abc") == b"cba"
    assert asked == [b"abc"]
    assert desk.receive("ask", b"abc") == ("done", b"cba")  # a repeated message
    assert asked == [b"abc"]


def test_lost_messages_are_sent_again():
    lost, asked = [True, True, False, True, False, False], []

    def answer(body):
        asked.append(body)
        return b"here"

    _, post = desk_of(answer)

    def flaky(kind, data, wait):
        return None if lost and lost.pop(0) else post(kind, data, wait)

    assert channel(flaky).ask(b"abc") == b"here"
    assert asked == [b"abc"]


def test_a_silent_site_is_named_in_time():
    start = time.monotonic()
    with pytest.raises(
        SiteLost, match=r"^site north gave no sign of life for \d+ s; .* --resume$"
    ) as lost:
        channel(lambda *_: None).ask(b"abc")
    assert 0.5 <= time.monotonic() - start < 2  # patience, and a machine that is busy
    assert lost.value.site == "north"


def test_a_site_that_hangs_is_named_in_time():
    never = threading.Event()
    desk, post = desk_of(lambda _: str(never.wait(20)).encode())
    with pytest.raises(SiteLost, match=r"at work on one message for .*: it hangs"):
        channel(post, limit=0.5).ask(b"abc")
    # Another message waits, and is told so; it is not computed beside the first.
    assert desk.receive("ask", b"other") == ("unknown", b"")
    never.set()


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_was_ended_ends(there):
    _, post = desk_of(lambda _: b"")
    reach = post if there else lambda *_: None
    start = time.monotonic()
    with pytest.raises(Ended, match=r"^the run was ended; go on with --resume$"):
        channel(reach, lambda: True, patience=60.0).ask(b"abc")
    assert time.monotonic() - start < 5


def test_who_failed_is_read_from_what_flare_printed(tmp_path):
    assert flare.failed_site(tmp_path, "job-1") is None
    (tmp_path / "log").mkdir()
    (tmp_path / "log/console.txt").write_text(
        "x INFO y: Failing job job-2 due to reported failure from south: killed\n"
        "x INFO y: Failing job job-1 due to reported failure from north.job-1: killed\n"
    )
    assert flare.failed_site(tmp_path, "job-1") == "north"
