"""What leaves a site, byte by byte, and what it refuses."""

import hashlib
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from expressway import datasets, federated, io
from expressway.run import ProtocolError, masks
from expressway.run.certificates import Certified
from expressway.run.disclosure import Disclosure, Sent
from expressway.run.masks import Hidden
from expressway.run.protocol import Asked, Request
from expressway.run.remote import TUPLES, Answer, Line, Message, read
from expressway.run.wire import decode, encode

sys.path.insert(0, str(Path(__file__).parent / "run"))
from authority import Authority

NAMES = ("east", "north", "south")
DESIGN = "~ batch + condition"


class Recorded:
    """A channel that keeps all that went over it."""

    elsewhere = False

    def __init__(self, member):
        self.member, self.asked, self.sent = member, [], []

    def ask(self, body):
        self.asked.append(body)
        self.sent.append(self.member.answer(body))
        return self.sent[-1]


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority") / "ours")
    return {name: Certified(*authority.files(name)) for name in (*NAMES, "west")}


def table():
    return datasets.simulate(genes=120, samples=36, batches=3, outliers=5, seed=5)


def parts(adata):
    adata.obs["name"] = [f"patient {k}" for k in range(adata.n_obs)]
    return {name: adata[np.arange(36) % 3 == k].copy() for k, name in enumerate(NAMES)}


def members(signers, tables, folder=None, **allowed):
    permissions = federated.Permissions(NAMES, **{"min_samples": 1, **allowed})
    return {
        name: federated.Member(
            name,
            lambda _, name=name: tables[name],
            permissions,
            signer=signers[name],
            disclosure=Disclosure(None if folder is None else folder / f"{name}.csv"),
            secret=name.encode(),
        )
        for name in tables
    }


def analysed(of, **rules):
    """Channels of an analysis that has been done."""
    channels = {name: Recorded(member) for name, member in of.items()}
    lines = [Line(name, channel, "run") for name, channel in channels.items()]
    given = federated.Rules(min_samples=1, **rules)
    question = federated.Question(DESIGN, None, {}, io.NOTHING, given, {})
    return federated.analyse(lines, question), channels


@pytest.fixture(scope="module")
def whole(signers, tmp_path_factory):
    """An analysis, all that was sent, and the folder of the disclosures."""
    folder = tmp_path_factory.mktemp("disclosed")
    run, channels = analysed(members(signers, parts(table()), folder))
    return run, channels, folder


def arrays(node):
    """All arrays in what was sent, and those that are masked."""
    if isinstance(node, Hidden):
        yield node.limbs, True
        yield node.failures, True
    elif isinstance(node, np.ndarray):
        yield node, False
    elif isinstance(node, dict):
        for one in node.values():
            yield from arrays(one)
    elif isinstance(node, list | tuple):
        for one in node:
            yield from arrays(one)


def contents(channel):
    return [Answer(*decode(body, TUPLES)).content for body in channel.sent]


def digest(data):
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def test_every_byte_that_left_is_in_the_sites_disclosure(whole):
    _, channels, folder = whole
    for name, channel in channels.items():
        told = pd.read_csv(folder / f"{name}.csv")
        assert list(told.columns) == list(Sent._fields)
        messages = told[told["what"] == "message"]
        assert list(messages["digest"]) == [digest(body) for body in channel.sent]
        assert list(messages["bytes"]) == [len(body) for body in channel.sent]
        assert list(messages["message"]) == list(range(1, len(channel.sent) + 1))
        by_message = told.groupby("message")["digest"].agg(set)
        for number, content in enumerate(contents(channel), 1):
            for array, _ in arrays(content):
                assert digest(np.ascontiguousarray(array).tobytes()) in by_message[number]
        # Of the numbers nothing left without a mask.
        numbers = told[told["shape"].astype(str).str.contains("x")]
        assert len(numbers) > 100
        assert numbers["masked"].all()
        # What a reader needs to tell what it was.
        assert (told["round"] > 0).sum() > 200
        assert {"size factors", "coefficients", "outliers"} <= set(told["stage"])


def least(channel):
    """The smallest p-value that bytes of a masked array are uniform, for as many as there are."""
    found = [
        stats.chisquare(np.bincount(np.frombuffer(a.tobytes(), np.uint8), minlength=256)).pvalue
        for content in contents(channel)
        for a, masked in arrays(content)
        if masked and a.nbytes >= 2000  # eight of each byte
    ]
    assert len(found) > 50
    return min(found) * len(found)


def test_what_leaves_is_uniform_and_the_test_finds_what_is_not(whole, signers, monkeypatch):
    # A right cipher fails one time in 10,000 at each of three sites; keys are new in every run.
    assert all(least(channel) > 1e-4 for channel in whole[1].values())
    stream, labels = masks._stream, []

    def one_without(key, label, count):
        labels.append(label)
        mask = stream(key, label, count)
        # One of the messages of some thirty rounds: the pairs' masks still cancel.
        return np.zeros_like(mask) if label == sorted(set(labels))[0] and count > 500 else mask

    monkeypatch.setattr(masks, "_stream", one_without)
    _, channels = analysed(members(signers, parts(table())))
    assert any(least(channel) < 1e-10 for channel in channels.values())


def test_no_mask_is_used_twice(signers, monkeypatch):
    stream, used = masks._stream, {}

    def noted(key, label, count):
        found = stream(key, label, count)
        used.setdefault(key, []).append((label, found.tobytes()))
        return found

    monkeypatch.setattr(masks, "_stream", noted)
    analysed(members(signers, parts(table())))
    assert len(used) == 3  # keys of three pairs, each at both ends
    for found in used.values():
        both = {label for label, _ in found}
        assert len(found) == 2 * len(both) > 50
        assert len({mask[:64] for _, mask in found}) == len(both)


def test_of_one_changed_sample_only_totals_tell(whole, signers):
    other = table()
    other.X[7] = other.X[7] * 3 + 1
    run, channels = analysed(members(signers, parts(other)))
    for name in NAMES:
        ours, theirs = contents(whole[1][name]), contents(channels[name])
        # Names, levels and design are as before; all arrays are noise in both.
        assert {k: ours[0][k] for k in ("genes", "columns")} == {
            k: theirs[0][k] for k in ("genes", "columns")
        }
        assert ours[2]["cells"] == theirs[2]["cells"]
        assert len(ours[2]["rows"]) == len(theirs[2]["rows"])
        assert least(channels[name]) > 1e-4
    assert not whole[0].table["log2_fold_change"].equals(run.table["log2_fold_change"])


def test_a_repeated_message_changes_nothing(whole):
    _, channels, folder = whole
    for name, channel in channels.items():
        before = (folder / f"{name}.csv").read_bytes()
        assert channel.member.answer(channel.asked[-1]) == channel.sent[-1]
        for old in channel.asked[:-1]:
            with pytest.raises(ProtocolError, match="is not the next one"):
                channel.member.answer(old)
        assert (folder / f"{name}.csv").read_bytes() == before


def changed(body, **fields):
    message = read(Message, body, "test")
    return encode(tuple(message._replace(**fields)), TUPLES)


def with_content(body, **fields):
    return changed(body, content=read(Message, body, "test").content | fields)


class Stopped(Exception):
    """Before a message is brought to a site."""


class Stopping(Recorded):
    def __init__(self, member, step):
        super().__init__(member)
        self.step = step

    def ask(self, body):
        if len(self.asked) == self.step:
            raise Stopped(body)
        return super().ask(body)


@pytest.fixture
def joined(signers):
    """A site that has answered so many messages, and the next one."""

    def at(step, **allowed):
        of = members(signers, parts(table()), **allowed)
        channels = {name: Stopping(member, step) for name, member in of.items()}
        lines = [Line(name, channel, "run") for name, channel in channels.items()]
        rules = federated.Rules(min_samples=1)
        with pytest.raises(Stopped) as stopped:
            federated.analyse(lines, federated.Question(DESIGN, None, {}, io.NOTHING, rules, {}))
        return of["east"], stopped.value.args[0]

    return at


def test_messages_of_other_runs_and_out_of_order_are_refused(joined):
    member, body = joined(1)
    for fields, says in (
        ({"run": "other"}, "of a run that has ended, or has not begun"),
        ({"number": 3}, "message 3 is not the next one, 2"),
        ({"number": 1}, "message 1 is not the next one, 2"),
        ({"kind": "sums"}, "'sums' is not answered where keys comes next"),
        ({"kind": "_describe"}, "'_describe' is not answered"),
    ):
        with pytest.raises(ProtocolError, match=says):
            member.answer(changed(body, **fields))
    with pytest.raises(ProtocolError, match="no message of this program"):
        member.answer(body[:-8])


def test_a_run_that_has_ended_does_not_begin_again(joined):
    member, first = joined(0)
    member.answer(first)
    member.answer(changed(first, run="other"))
    with pytest.raises(ProtocolError, match="of a run that has ended"):
        member.answer(first)


@pytest.mark.parametrize(
    ("allowed", "fields", "says"),
    [
        ({}, {"sites": ("north", "south")}, "lacks this one"),
        ({}, {"sites": ("east", "east", "north")}, "names one twice"),
        ({}, {"sites": ("east", "north", "west")}, "not in this site's roster"),
        ({"min_sites": 4}, {}, "3 sites; this one insists on 4"),
        ({}, {"masks": False}, "totals without masks in projects of two sites only"),
        ({"min_sites": 2}, {"masks": False, "sites": ("east", "north")}, "of two sites only"),
        ({"columns": ("batch",)}, {}, "may not use its column condition"),
        ({}, {"formula": "~ name"}, "in its column name each sample has another word"),
    ],
)
def test_what_a_site_insists_on_before_it_says_anything(whole, signers, allowed, fields, says):
    member = members(signers, parts(table()), **allowed)["east"]
    with pytest.raises(ProtocolError, match=says):
        member.answer(with_content(whole[1]["east"].asked[0], **fields))
    assert not member.disclosure.rows


def test_keys_that_sites_have_not_signed_are_refused(joined, signers):
    member, body = joined(1)
    peers = read(Message, body, "test").content["peers"]
    mine, north, south = (peers[name] for name in NAMES)
    forged = north | {"public": masks.public_key(masks.new_key())}
    for some, says in (
        ({"east": mine, "north": forged, "south": south}, "is not signed by it"),
        ({"east": mine, "north": south, "south": south}, "has the certificate of south"),
        ({"east": mine, "north": north}, "not those of the sites that take part"),
        ({"east": north, "north": north, "south": south}, "not those of the sites"),
    ):
        with pytest.raises(ProtocolError, match=says):
            member.answer(with_content(body, peers=some))


def test_too_few_samples_of_all_sites_are_refused_by_a_site(joined):
    # The coordinator is content with one.
    member, body = joined(4, min_samples=7)
    with pytest.raises(ProtocolError, match=r"6 samples over all sites; it insists on 7"):
        member.answer(body)
    member, body = joined(4)
    few = with_content(body, cells=dict.fromkeys(read(Message, body, "test").content["cells"], 1))
    with pytest.raises(ProtocolError, match=r"1 samples over all sites"):
        member.answer(few)


def test_what_is_not_listed_is_not_evaluated(joined):
    member, body = joined(5)

    def ask(*asked, pending=()):
        request = Request(6, asked, "here")
        member.answer(with_content(body, request=request, pending=list(pending)))

    for asked, says in (
        (Asked("cooks", (), (), None), "site east does not evaluate cooks"),
        (Asked("__class__", (), (), None), "does not evaluate __class__"),
        (Asked("equation", ("x",), (), None), "sums could not be answered"),
        (Asked("equation", (np.zeros((9, 2)),), (), np.arange(9) * 1000), "could not be answered"),
    ):
        with pytest.raises(ProtocolError, match=says):
            ask(asked)
    with pytest.raises(ProtocolError, match="does not evaluate read_csv"):
        ask(pending=[(1, 0, "read_csv", (), (), None)])
    # It goes on all the same.
    assert member.answer(body)


def test_refusals_and_logs_of_a_site_hold_nothing_of_its_table(tmp_path, signers, caplog):
    deployed = pytest.importorskip("expressway.federated.deployed", reason="nvflare is an extra")
    kit = tmp_path / "kit"
    (kit / "local").mkdir(parents=True)
    adata = parts(table())["east"]
    adata.obs_names = list(adata.obs["name"])
    adata.obs["age"] = ["secret"] * adata.n_obs
    (tmp_path / "data").mkdir()
    adata.write_h5ad(tmp_path / "data" / "site.h5ad")
    federated.SiteSettings(str(tmp_path / "data")).write(kit)
    (kit / "local/roster.json").write_text('{"sites": ["east", "north", "south"]}')
    authority = Authority(tmp_path / "authority")
    startup = kit / "startup"
    startup.mkdir()
    names = ("client.crt", "client.key", "rootCA.pem")
    for path, name in zip(authority.files("east"), names, strict=True):
        (startup / name).write_bytes(path.read_bytes())
    answer = deployed.answering(deployed.site_of(kit, "east"))
    brought = {"inputs": [None] * 4}
    about = {"formula": DESIGN, "sites": NAMES, "masks": True, "brought": brought}
    asked = (
        {"formula": "~ nothing"},
        {"formula": "~ name"},
        {"formula": "~ {condition.to_csv('rows.csv') or age}"},
        {"formula": "~ C(condition.map(print))"},
        {"brought": brought | {"offsets": "../../etc/passwd"}},
        {"brought": {"inputs": ["age", None, None, None]}},
        {"sites": 3},
    )
    for k, one in enumerate(asked):
        body = encode(tuple(Message(f"run {k}", 1, "describe", about | one)), TUPLES)
        found = answer(body)
        reply = Answer(*decode(found, TUPLES))
        if reply.refused is None:
            assert one["brought"]["inputs"][0] == "age"  # that is looked at later
            continue
        assert "log says why" in reply.refused or "its column name" in reply.refused
        assert b"patient" not in found
        assert b"secret" not in found
    assert "secret" not in caplog.text
    assert (kit / "local/secret").stat().st_mode & 0o077 == 0


def test_an_outcome_comes_back_as_it_went(tmp_path):
    adata = table()
    run = federated.simulate(parts(adata), DESIGN, rules=federated.Rules(min_samples=1))
    wanted = federated.Wanted((None, "batch[T.batch_2]"), "lrt", None, "normal")
    found = federated.outcome(run, wanted, io.Clock())
    from expressway.federated.outcome import load, save

    save(found, tmp_path / "result")
    back = load(tmp_path / "result")
    for one, other in zip(found.tables, back.tables, strict=True):
        assert (one.name, one.threshold) == (other.name, other.threshold)
        pd.testing.assert_frame_equal(one.table, other.table)
    for one, other in zip(found.shrunken, back.shrunken, strict=True):
        pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(found.cells, back.cells)
    pd.testing.assert_frame_equal(found.received, back.received)
    assert back.ledger.rounds == found.ledger.rounds
    assert isinstance(back.adata, anndata.AnnData)
