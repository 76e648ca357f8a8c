"""The protocol: what a site evaluates, and replies that are refused."""

from typing import NamedTuple

import numpy as np
import pytest

from expressway.core.cohort import Ask, Cohort, Pooled, samples
from expressway.federated import Member, Permissions
from expressway.federated.part import Part
from expressway.models import nb, outliers, size_factors
from expressway.run import Federation, Ledger, ProtocolError, Site
from expressway.run.protocol import CHANGES, STATISTICS, Asked, Request, fields
from expressway.run.remote import Line, RemoteSite


def rows(n: int, seed: int):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2])
    return samples(rng.poisson(20.0, (n, 7)).astype(float), x)


PARTS = {"north": rows(4, 0), "south": rows(1, 1), "east": rows(6, 2)}


class Loop:
    """A channel to a member that has joined."""

    elsewhere = True

    def __init__(self, site):
        self.member = Member(site.name, lambda _: pytest.fail("no table"), Permissions())
        part = Part("run", site.name, self.member._ways)
        part._next, part._cohorts = ("sums", "stays"), {0: site}
        self.member._part, self.member._runs = part, {"run"}

    def ask(self, body):
        return self.member.answer(body)


def remote(site) -> RemoteSite:
    """The same site at the other end of a line."""
    return RemoteSite(Line(site.name, Loop(site), "run"))


@pytest.fixture(params=["here", "remote"])
def federation(request):
    """Makes the cohort of sites in this process and of remote ones: it is the same."""
    where = {"here": lambda site: site, "remote": remote}[request.param]
    return lambda change=None: _federation(change, where)


def _federation(change, where) -> tuple[Federation, Ledger]:
    """Three sites, the second replaced."""
    sites = [where(Site(name, Pooled(part))) for name, part in PARTS.items()]
    if change is not None:
        sites[1] = change(sites[1])
    ledger = Ledger({"north": 4, "south": 1, "east": 6}, {"north": 2, "south": 1, "east": 3}, 5)
    return Federation(sites, 7, 2, ledger), ledger


def test_is_a_cohort(federation):
    assert isinstance(federation()[0], Cohort)


def test_totals_are_those_of_all_rows(federation):
    cohort, _ = federation()
    whole = Pooled(samples(*(np.concatenate([p[k] for p in PARTS.values()]) for k in (0, 1))))
    beta, alpha = np.full((3, 2), 0.5), np.full(3, 0.2)
    genes = np.array([6, 0, 0])
    asks = [Ask(size_factors.log_counts), Ask(nb.equation, (beta, alpha), genes=genes)]
    for ours, theirs in zip(cohort.sums(*asks), whole.sums(*asks), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            # The same terms, added site by site.
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-12)


def test_several_sums_are_one_round_and_all_are_written_down(federation):
    cohort, ledger = federation()
    ledger.stage = "here"
    beta, alpha = np.zeros((7, 2)), np.ones(7)
    cohort.sums(Ask(size_factors.log_counts), Ask(nb.information, (beta, alpha)))
    assert ledger.rounds == {"here": 1}
    left = [one for one in ledger.left if one.site == "south"]
    totals = ["log_counts.rows", "log_counts.log", "log_counts.zeros", "log_counts.total"]
    assert [f"{one.statistic}.{one.total}" for one in left] == [*totals, "information.info"]
    assert left[-1].shape == "7x2x2"
    assert (left[-1].samples, left[-1].smallest_cell, left[-1].smallest_cell_of_all) == (1, 1, 5)
    assert ledger.up["south"] == sum(one.bytes for one in left) == 8 * (4 * 7 + 28)
    assert ledger.down["south"] == beta.nbytes + alpha.nbytes


def test_rows_do_not_come(federation):
    with pytest.raises(TypeError, match="stay at their sites"):
        federation()[0].collect(outliers.distances)


def test_a_site_evaluates_what_is_listed_and_nothing_else(federation):
    def counts(s):
        return s.y

    with pytest.raises(ProtocolError, match="site north does not evaluate counts_raw"):
        Site("north", Pooled(PARTS["north"])).answer(
            Request(1, (Asked("counts_raw", (), (), None),))
        )
    with pytest.raises(ProtocolError, match="site north does not evaluate counts"):
        federation()[0].map(counts).sum(size_factors.log_counts)
    names = [one.__name__ for one in (*STATISTICS, *CHANGES)]
    assert len(names) == len(set(names))
    assert not {"cooks", "largest", "mean"} & set(names)


class Faulty(NamedTuple):
    """A site that answers something else."""

    site: Site
    fault: str

    @property
    def name(self):
        return self.site.name

    def answer(self, request):
        reply = self.site.answer(request)
        first = dict(fields(reply.sums[0]))
        value = first["total"].copy()
        if self.fault == "nan":
            value[3] = np.nan
        elif self.fault == "infinite":
            value[3] = np.inf
        elif self.fault == "shape":
            value = value[:-1]
        elif self.fault == "stale":
            return reply._replace(round=request.round - 1)
        elif self.fault == "name":
            return reply._replace(site="north")
        elif self.fault == "few":
            return reply._replace(sums=())
        elif self.fault == "fields":
            del first["total"]
        else:
            value = np.array(["1"] * len(value))
        wrong = first if self.fault == "fields" else first | {"total": value}
        return reply._replace(sums=(wrong, *reply.sums[1:]))

    def changed(self, change, args, shared, genes):
        return self._replace(site=self.site.changed(change, args, shared, genes))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nan", "log_counts.total is not a finite number .1 such, first for gene 4 of the 7"),
        ("infinite", "log_counts.total is not a finite number"),
        ("shape", r"log_counts.total has shape \(6,\) where \(7,\) was asked"),
        ("stale", "the reply is of site south, round 1"),
        ("name", "the reply is of site north, round 2"),
        ("fields", "log_counts has the totals rows, log, zeros where rows, log, zeros, total were"),
        ("text", r"log_counts.total has shape \(7,\) of <U1 where \(7,\) was asked"),
        ("few", "0 results for 1 sums asked"),
    ],
)
def test_a_faulty_site_is_named_and_refused(fault, says, federation):
    cohort, ledger = federation(lambda site: Faulty(site, fault))
    ledger.begin()
    with pytest.raises(ProtocolError, match=f"^site south, round 2: {says}") as caught:
        cohort.sum(size_factors.log_counts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("statistic", [nb.equation, nb.likelihood, nb.information])
def test_no_trial_point_overflows_at_a_site(statistic, federation):
    cohort, _ = federation()
    beta = np.array([[1e3, 1e3], [-1e3, 0], [30, 30], [-1e3, 2e3], [700, 0], [0, 0], [400, -900]])
    sums = cohort.sum(statistic, beta, np.geomspace(1e-8, 1e3, 7))
    assert all(np.all(np.isfinite(part)) for part in sums)
