"""Totals for everybody: what one sample can change, what the noise is, and who refuses."""

import json
import math
import re
import secrets

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from expressway import datasets, federated, io
from expressway.federated.publication import Publication, at_site, groups, variances
from expressway.io.agreement import Column
from expressway.run import ProtocolError
from expressway.run.kits import Kit
from expressway.run.masks import Hidden
from expressway.run.privacy import Account
from expressway.run.remote import Line
from test_members import NAMES, Recorded, arrays, contents, members, signers, table

__all__ = ["signers"]
BY = ("batch", "condition")


def large():
    """Groups that are told from noise."""
    return datasets.simulate(genes=120, samples=360, batches=3, seed=5)


def parts(adata):
    return {name: adata[np.arange(adata.n_obs) % 3 == k].copy() for k, name in enumerate(NAMES)}


def asked(adata, genes=4, rho=1.0, **given):
    return Publication(BY, tuple(adata.var_names[:genes]), rho, **given)


def exact(adata, of):
    """The published means without noise, from all samples in one table."""
    y = np.asarray(adata.X, float)
    v = np.log2(1 + 1e6 * y / y.sum(axis=1, keepdims=True))
    v = pd.DataFrame(v, adata.obs_names, adata.var_names)[list(of.genes)].clip(of.low, of.high)
    grouped = v.groupby([adata.obs[name].astype(str) for name in of.by])
    return grouped.mean(), grouped.size()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_without_noise_it_is_the_mean_of_the_pooled_table(form, monkeypatch):
    adata = large()
    of = asked(adata, low=2.0, high=13.0)
    sites = parts(adata)
    for one in sites.values():
        one.X = form(one.X)
    module = "expressway.federated.publication.noise"
    monkeypatch.setattr(module, lambda shape, _: np.zeros(shape, np.int64))
    found = federated.publish(sites, of).table.set_index([*BY, "gene"])
    means, sizes = exact(adata, of)
    # Each sample is rounded to a multiple of 2^-10.
    for levels, row in means.iterrows():
        one = found.loc[levels]
        np.testing.assert_array_equal(one["samples"], sizes[levels])
        np.testing.assert_allclose(one["mean"][row.index], row, rtol=0, atol=2**-11)
    assert len(found) == 6 * 4


def test_noise_is_as_large_as_is_said():
    adata = large()
    of = asked(adata, genes=60, rho=0.5)
    _, sizes = exact(adata, of)
    runs = [federated.publish(parts(adata), of) for _ in range(12)]
    said = runs[0].said
    n = np.array([run.table["samples"].to_numpy()[::60] for run in runs])
    z = (n - np.asarray(sizes, float)) / said["noise_of_samples"]
    # Sums of squares of as many standard normals; far enough that one run of 10^6 fails.
    assert 1e-6 < stats.chi2.cdf(np.sum(z**2), z.size) < 1 - 1e-6
    mean = np.array([run.table["mean"].to_numpy() for run in runs])
    samples = np.array([run.table["samples"].to_numpy() for run in runs])
    y = np.asarray(adata.X, float)
    v = np.log2(1 + 1e6 * y / y.sum(axis=1, keepdims=True))[:, :60].clip(of.low, of.high)
    group = adata.obs.groupby(list(BY), observed=False).ngroup().to_numpy()
    totals = np.concatenate([(v[group == k] - of.middle).sum(axis=0) for k in range(6)])
    z = ((mean - of.middle) * samples - totals) / said["noise_of_totals"]
    assert 1e-6 < stats.chi2.cdf(np.sum(z**2), z.size) < 1 - 1e-6


def test_one_sample_changes_totals_by_no_more_than_the_noise_is_made_for():
    adata = table()
    of = asked(adata, genes=120, low=3.0, high=9.0)
    columns = {
        name: Column(False, tuple(sorted(adata.obs[name].astype(str).unique()))) for name in BY
    }
    # The worst sample there can be: every gene at one end.
    worst = adata.copy()
    worst.X = np.where(np.arange(36)[:, None] == 5, np.eye(1, 120) * 1e9, np.asarray(worst.X))
    for one in (adata, worst):
        whole = at_site(one, "adata", columns, of)
        for k in range(36):
            less = at_site(one[np.arange(36) != k].copy(), "adata", columns, of)
            assert np.abs(whole.samples - less.samples).sum() == 1
            changed = (whole.totals - less.totals).astype(float)
            assert (np.abs(changed).sum(axis=1) > 0).sum() <= 1
            norm = np.linalg.norm(changed)
            assert norm <= of.half * math.sqrt(120)
            assert (norm == of.half * math.sqrt(120)) == (one is worst and k == 5)
    each = variances(of)
    # Two shares of rho pay for what one sample can change, to a step.
    assert 2**20 / (2 * each.samples) + of.half**2 * 120 / (2 * each.totals) <= of.rho
    assert 2**20 / (2 * each.samples) + of.half**2 * 120 / (2 * each.totals) > of.rho * (1 - 1e-6)
    # Never so little that sums of it are no discrete Gaussians any more.
    narrow = asked(adata, genes=1, rho=100.0, high=2**-9)
    assert variances(narrow, 100).totals == 100
    # Who knows one site's noise is left with that of the others.
    for sites in (2, 3, 7):
        own = variances(of, sites)
        assert (sites - 1) * own.samples >= each.samples
        assert (sites - 1) * own.totals >= each.totals


def channels(signers, tables, budget, **allowed):
    of = members(signers, tables, **allowed)
    for member in of.values():
        member._ways = member._ways._replace(account=Account(budget))
    return {name: Recorded(member) for name, member in of.items()}


def published(found, of):
    run = secrets.token_hex(8)
    return federated.published([Line(name, one, run) for name, one in found.items()], of)


def test_all_that_leaves_is_names_and_masked_numbers(signers):
    adata = table()
    found = channels(signers, parts(adata), 1.0)
    of = asked(adata)
    published(found, of)
    for name, one in found.items():
        sent = contents(one)
        assert [set(part) for part in sent[1:]] == [{"sealed"}, {"samples", "totals"}]
        assert all(isinstance(part, Hidden) for part in sent[2].values())
        assert all(masked for _, masked in arrays(sent[2]))
        rows = [row for row in one.member.disclosure.rows if row.message == 3]
        assert [row.what for row in rows if row.masked] == [
            *("publish.samples", "publish.samples.failures"),
            *("publish.totals", "publish.totals.failures"),
        ]
        assert rows[0].samples == 12, name
        # The same message again is the same bytes, and costs nothing.
        left = one.member._ways.account.left
        assert one.member.answer(one.asked[-1]) == one.sent[-1]
        assert one.member._ways.account.left == left == 0.0


def test_sites_publish_nothing_unless_they_are_told_to(signers):
    adata = table()
    found = channels(signers, parts(adata), 0.0)
    with pytest.raises(ProtocolError, match="site east publishes nothing, or no more"):
        published(found, asked(adata))
    assert all(len(one.sent) == 2 for one in found.values())
    # Nor to a coordinator that asks in spite of that.
    told = {name: [False, sorted(set(adata.obs[name].astype(str)))] for name in BY}
    with pytest.raises(ProtocolError, match=r"it publishes nothing \(--privacy-budget"):
        found["east"].member._part.take(
            "publish", {"columns": told, "asked": asked(adata)._asdict()}
        )


def test_a_budget_ends(signers):
    adata = table()
    found = channels(signers, parts(adata), 1.0)
    published(found, asked(adata, rho=0.75))
    with pytest.raises(ProtocolError, match=r"a rho of 0\.75 is asked, and 0\.25 is left"):
        published(found, asked(adata, rho=0.75))
    assert all(one.member._ways.account.left == 0.25 for one in found.values())
    published(found, asked(adata, rho=0.25))


def test_after_a_publication_nothing_is_answered(signers):
    adata = table()
    found = channels(signers, parts(adata), 2.0)
    lines = [Line(name, one, "run") for name, one in found.items()]
    federated.published(lines, asked(adata))
    for kind in ("publish", "code", "sums"):
        with pytest.raises(ProtocolError, match="nothing comes next"):
            found["east"].member._part.take(kind, {})
    assert found["east"].member._ways.account.left == 1.0


def test_what_was_described_is_what_is_published(signers):
    adata = table()
    found = channels(signers, parts(adata), 1.0)
    lines = [Line(name, one, "run") for name, one in found.items()]
    from expressway.federated.joining import ask, meet

    meet(lines, "~ C(batch)", {"inputs": list(io.NOTHING)}, masks=True)
    of = asked(adata)._replace(by=("name",))
    told = {"name": [False, ["a", "b"]]}
    with pytest.raises(ProtocolError, match="other columns are asked than were described"):
        ask(lines, "publish", {"columns": told, "asked": of._asdict()})
    assert all(one.member._ways.account.left == 1.0 for one in found.values())


def test_nobody_pays_for_what_another_site_refuses(signers):
    adata = table()
    tables = parts(adata)
    tables["south"] = tables["south"][:, 1:].copy()
    found = channels(signers, tables, 1.0)
    with pytest.raises(ProtocolError, match="site south lacks gene gene_1; leave it out"):
        published(found, asked(adata))
    found["south"].member._ways = found["south"].member._ways._replace(account=Account(0.5))
    with pytest.raises(ProtocolError, match=r"0\.5 is left of the budget of site south"):
        published(found, asked(adata))
    assert found["east"].member._ways.account.left == 1.0


def test_columns_of_a_site_are_kept_to(signers):
    adata = table()
    with pytest.raises(ProtocolError, match="may not use its column condition"):
        published(channels(signers, parts(adata), 1.0, columns=("batch",)), asked(adata))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"by": ()}, "--by names no column"),
        ({"by": ("batch", "batch")}, "name different columns"),
        ({"genes": ()}, "the list of genes has none"),
        ({"genes": ("gene_1", "gene_1")}, "has gene_1 twice"),
        ({"genes": ("gene_1", "nobody")}, "site east lacks gene nobody"),
        ({"rho": 0.0}, "rho is 0; needed is more than 0"),
        ({"rho": math.nan}, "rho is nan"),
        ({"rho": math.inf}, "rho is inf"),
        ({"low": 5.0, "high": 5.0}, "the range from 5 to 5 is none"),
        ({"high": math.nan}, "the range from 0 to nan is none"),
        ({"by": ("nobody",)}, "nobody"),
    ],
)
def test_mistakes_are_said_in_one_line(change, says):
    adata = table()
    with pytest.raises(io.InputError, match=says) as error:
        federated.publish(parts(adata), asked(adata)._replace(**change))
    assert "\n" not in str(error.value)


def test_one_site_is_refused():
    adata = table()
    with pytest.raises(io.InputError, match="1 sites; needed are two"):
        federated.publish({"east": adata}, asked(adata))


def test_groups_are_all_combinations_also_those_without_a_sample():
    """Which there are must not tell whether somebody is there."""
    adata = table()
    adata.obs["batch"] = [1, 2, 3] * 12
    kept = adata[(adata.obs["batch"] != 2) | (adata.obs["condition"] == "control")].copy()
    of = asked(kept, rho=10.0)
    found = federated.publish({"a": kept[:15].copy(), "b": kept[15:].copy()}, of).table
    assert len(found) == 6 * 4
    there = found.groupby(["batch", "condition"], sort=False).size().index.tolist()
    assert ("2", "treated") in there
    empty = found[(found["batch"] == "2") & (found["condition"] == "treated")]
    assert abs(empty["samples"].iloc[0]) < 8 * math.sqrt(
        2 / (2 * 10.0 / 3)
    )  # two sites, a third of rho


@pytest.mark.parametrize(
    ("name", "values", "levels"),
    [
        ("yes", [True, False], ["False", "True"]),
        ("dose", [0.0, 0.5], ["0", "0.5"]),
        ("day", pd.Categorical([2, 1]), ["1", "2"]),
        ("of two words", ["a b", "c=1"], ["a b", "c=1"]),
    ],
)
def test_levels_of_any_kind(name, values, levels):
    adata = table()
    adata.obs[name] = pd.Series(values).iloc[np.arange(36) % 2].to_numpy()
    sites = {"a": adata[:18].copy(), "b": adata[18:].copy()}
    found = federated.publish(sites, Publication((name,), ("gene_1",), 1.0))
    assert found.table[name].tolist() == levels


def test_groups_have_the_names_of_their_levels():
    columns = {"a": Column(False, ("x", "y")), "b": Column(False, ("1", "2"))}
    assert groups(columns) == [("x", "1"), ("x", "2"), ("y", "1"), ("y", "2")]


def test_it_can_be_saved(tmp_path):
    adata = table()
    found = federated.publish(parts(adata), asked(adata))
    found.save(tmp_path / "result")
    again = federated.Published.load(tmp_path / "result")
    pd.testing.assert_frame_equal(again.table, found.table)
    assert again.said == found.said


def test_plans_travel():
    of = asked(table())
    plan = federated.Plan(NAMES, of, 5.0, 60.0)
    assert federated.Plan.of(plan.text()) == plan


class Here:
    """What `expressway federated publish` meets: a deployment in this process."""

    def __init__(self, sites, folder):
        self.sites, self.folder = sites, folder

    def carried_out(self, kit, mine, plan, scratch, watch):  # noqa: ARG002
        from expressway.federated import deployed

        lines = [
            Line(name, deployed_channel(name, adata, plan.asked.rho), "run")
            for name, adata in self.sites.items()
        ]
        out = self.folder / "result"
        deployed._run(federated.Plan.of(plan.text()), self.folder, out, lines)
        return federated.received(out)


def deployed_channel(name, adata, budget):
    from expressway.federated.analysis import Direct

    return Direct(name, adata, federated.Permissions(NAMES), Account(budget))


def test_the_command_says_how_much_noise_there_is_and_what_it_cost(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from expressway.cli import app, follow

    adata = large()
    genes = tmp_path / "genes.txt"
    genes.write_text("gene_1\ngene_2\n")
    here = Here(parts(adata), tmp_path)
    mine = Kit(tmp_path, "administrator", "admin", "trial", "localhost", NAMES)
    monkeypatch.setattr(follow, "administrator", lambda _: mine)
    monkeypatch.setattr(follow, "carried_out", here.carried_out)
    words = ["federated", "publish", str(tmp_path), "--by", "batch", "--by", "condition"]
    words += ["--genes", str(genes), "--out", str(tmp_path / "out"), "--range", "2", "14"]
    result = CliRunner().invoke(app, [*words, "--rho", "2"])
    assert result.exit_code == 0, result.output
    said = result.output.splitlines()
    assert said[0] == "3 sites: 2 genes in 6 groups of batch, condition"
    assert re.fullmatch(r"noise of a mean: 0\.\d+ to 0\.\d+ \(log2\)", said[1])
    assert said[-1].startswith("rho 2 (epsilon 12.5 at delta 1e-06) of every site's budget is")
    table = pd.read_csv(tmp_path / "out" / "published.csv")
    assert list(table.columns) == ["gene", "batch", "condition", "samples", "mean", "noise"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["publication"]["rho"] == 2.0
    assert record["files"] == ["published.csv", "run.json"]
    again = CliRunner().invoke(app, [*words, "--rho", "2"])
    assert again.exit_code == 2
    assert "holds results already; name another folder or give --overwrite" in again.stderr
