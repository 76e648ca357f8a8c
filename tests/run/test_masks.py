"""Totals under masks: exact integers, uniform to whoever has no key, never a plausible mistake."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from expressway import datasets, federated, get
from expressway.core.cohort import Ask, Pooled, samples
from expressway.models import nb, size_factors
from expressway.run import Federation, Ledger, ProtocolError, Site
from expressway.run.masked import MaskedSite, digest
from expressway.run.masks import (
    BITS,
    LIMIT,
    Masks,
    add,
    decode,
    encode,
    new_key,
    public_key,
    subtract,
)

NAMES = ("north", "south", "east")


def masks(names=NAMES, run=b"run"):
    own = {name: new_key() for name in names}
    public = {name: public_key(key) for name, key in own.items()}
    others = {name: {n: k for n, k in public.items() if n != name} for name in names}
    return {name: Masks(name, own[name], others[name], run) for name in names}


def numbers(size=3000):
    rng = np.random.default_rng(0)
    ends = [0.0, -0.0, 1.0, -1.0, 2.0**-BITS, -(2.0**-BITS), 2.0**69, -(2.0**69), 2.0**64 - 2048]
    return np.concatenate([rng.normal(size=size) * 10.0 ** rng.integers(-20, 20, size), ends])


def test_integers_are_the_nearest_ones():
    values = numbers()
    for value, (low, high) in zip(values.tolist(), encode(values).limbs.tolist(), strict=True):
        whole = high * 2**64 + low
        whole -= 2**128 if high >= 2**63 else 0
        assert abs(Fraction(value) * 2**BITS - whole) <= Fraction(1, 2)


def test_decoded_numbers_are_those():
    values = numbers()
    # Half a unit of the fixed point, and two roundings to double precision.
    error = np.abs(decode(encode(values).limbs) - values)
    assert np.all(error <= 2.0 ** -(BITS + 1) + 2.0**-52 * np.abs(values))


def test_sums_are_exact_whatever_the_order():
    parts = [encode(numbers() * scale).limbs for scale in (0.3, -0.7, 1e-9)]
    total = add(parts)
    np.testing.assert_array_equal(total, add(parts[::-1]))
    for part in parts[1:]:
        total = subtract(total, part)
    np.testing.assert_array_equal(total, parts[0])


def test_what_is_no_number_is_counted_and_sent_as_nothing():
    found = encode(np.array([1.0, np.nan, np.inf, -np.inf, LIMIT, -LIMIT, LIMIT / 2]))
    assert found.failures.tolist() == [5, 0]
    assert np.all(found.limbs[1:6] == 0)


def test_masks_cancel_and_a_lost_site_leaves_noise():
    own, rng = masks(), np.random.default_rng(1)
    values = {name: rng.normal(size=(50, 2)) for name in NAMES}
    sent = [own[name].hide({"a": values[name]}, b"label")["a"].limbs for name in NAMES]
    # Half a unit a site, and the roundings of decoding and of the sum compared with.
    np.testing.assert_allclose(decode(add(sent)), sum(values.values()), rtol=0, atol=1e-15)
    for some in [*combinations(sent, 2), *((one,) for one in sent)]:
        assert np.all(np.abs(decode(add(some))) > 1)


def uniform(data: bytes) -> float:
    """P-value of a chi-square test that all bytes are equally frequent."""
    return float(stats.chisquare(np.bincount(np.frombuffer(data, np.uint8), minlength=256)).pvalue)


def test_what_leaves_a_site_is_uniform():
    own = masks()
    values = {"a": np.random.default_rng(2).poisson(20.0, (20_000, 3)).astype(float)}
    first, second = (own["south"].hide(values, label)["a"].limbs for label in (b"1", b"2"))
    # A right cipher fails one time in 10,000, and the keys are new in every run.
    assert uniform(first.tobytes()) > 1e-4
    assert uniform(subtract(first, second).tobytes()) > 1e-4
    # The test finds what is not: no mask, and a mask that was used for two messages.
    assert uniform(encode(values["a"]).limbs.tobytes()) < 1e-10
    other = {"a": values["a"] + 1.0}
    again = own["south"].hide(other, b"1")["a"].limbs
    assert uniform(subtract(again, first).tobytes()) < 1e-10


# --- a cohort of such sites -------------------------------------------------------------------


def rows(n, seed):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2])
    return samples(rng.poisson(20.0, (n, 7)).astype(float), x)


PARTS = dict(zip(NAMES, (rows(4, 0), rows(3, 1), rows(6, 2)), strict=True))


def federation(parts=PARTS, change=lambda site: site):
    own = masks()
    sites = [MaskedSite(Site(name, Pooled(part)), own[name]) for name, part in parts.items()]
    sites[1] = change(sites[1])
    size = {name: 3 for name in NAMES}
    return Federation(sites, 7, 2, Ledger(size, size, 3), masked=True)


ASKS = (Ask(size_factors.log_counts), Ask(nb.equation, (np.full((7, 2), 0.5), np.full(7, 0.2))))


def test_totals_are_those_of_all_rows():
    whole = Pooled(samples(*(np.concatenate([p[k] for p in PARTS.values()]) for k in (0, 1))))
    cohort = federation()
    for _ in range(2):  # asked twice: other masks, the same totals
        for ours, theirs in zip(cohort.sums(*ASKS), whole.sums(*ASKS), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                # The same terms, added site by site: rounding of sums of thirteen terms.
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-12)
    changed = cohort.map(size_factors.shifted, shared=(np.array([0.1]),))
    assert len(changed.sums(*ASKS)) == 2


def test_no_two_argument_sets_have_a_mask_in_common():
    site = federation().sites[0]
    assert isinstance(site, MaskedSite)
    beta = np.zeros((7, 2))
    bent = beta.copy()
    bent[3, 1] = 5e-324
    sets = [
        (site.history, "round 1", "equation", (beta, np.ones(7)), (), None),
        (site.history, "round 2", "equation", (beta, np.ones(7)), (), None),
        (site.history, "round 1", "likelihood", (beta, np.ones(7)), (), None),
        (site.history, "round 1", "equation", (bent, np.ones(7)), (), None),
        (site.history, "round 1", "equation", (beta.ravel(), np.ones(7)), (), None),
        (site.history, "round 1", "equation", (beta.astype(np.float32), np.ones(7)), (), None),
        (site.history, "round 1", "equation", (beta,), (np.ones(7),), None),
        (site.history, "round 1", "equation", ((beta, np.ones(7)),), (), None),
        (site.history, "round 1", "equation", (beta, np.ones(7)), (), np.arange(7)),
        (b"changed", "round 1", "equation", (beta, np.ones(7)), (), None),
    ]
    labels = {digest(*one) for one in sets}
    assert len(labels) == len(sets)
    hidden = [site.masks.hide({"a": np.zeros(4)}, label)["a"].limbs for label in labels]
    assert len({one.tobytes() for one in hidden}) == len(sets)
    # Asked the same again, a site sends the same: a repeated message tells nothing new.
    label = next(iter(labels))
    a, b = (site.masks.hide({"a": np.arange(4.0)}, label)["a"].limbs for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_of_one_changed_sample_only_totals_tell():
    """What the coordinator sees of each site is noise; totals over the others stay as they are."""
    y = np.array(PARTS["south"].y)
    y[0] += 1000.0
    other = PARTS | {"south": samples(y, np.asarray(PARTS["south"].x))}
    (one, _), (two, _) = (federation(parts).sums(*ASKS) for parts in (PARTS, other))
    np.testing.assert_allclose(two.total - one.total, 1000.0, rtol=0, atol=1e-9)
    assert np.all(two.rows == one.rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**69])
def test_what_cannot_be_sent_is_an_error_and_told_at_the_site(value, caplog):
    y = np.array(PARTS["south"].y)
    y[0, 3] = value
    broken = PARTS | {"south": PARTS["south"]._replace(y=y)}
    says = r"^round 1: log_counts.(log|total): 1 numbers are not finite or out of range"
    with pytest.raises(ProtocolError, match=says):
        federation(broken).sum(size_factors.log_counts)
    said = [r.getMessage() for r in caplog.records if "log_counts.total" in r.getMessage()]
    assert said == [
        "site south, round 1: 1 of the numbers of log_counts.total are not finite, or too large"
    ]


class Other(MaskedSite):
    """A site that was asked something else than the others, or sends another shape."""

    def answer(self, request):
        if self.history == b"stale":
            return super().answer(request)
        reply = super().answer(request)
        first = reply.sums[0]
        short = first.total._replace(limbs=first.total.limbs[:-1])
        return reply._replace(sums=(first._replace(total=short), *reply.sums[1:]))


@pytest.mark.parametrize(
    ("history", "says"),
    [
        (b"stale", r"round 1: log_counts.rows: masks do not cancel"),
        (b"", r"site south, round 1: log_counts.total is no masked total of shape \(7,\)"),
    ],
)
def test_masks_that_do_not_cancel_are_never_a_number(history, says):
    cohort = federation(change=lambda site: Other(site.site, site.masks, history))
    with pytest.raises(ProtocolError, match=says):
        cohort.sum(size_factors.log_counts)


# --- a whole analysis ---------------------------------------------------------------------------


def test_an_analysis_is_the_same_and_shows_totals_only():
    adata = datasets.simulate(genes=200, samples=24, batches=3, outliers=5, seed=5)
    parts = {name: adata[np.arange(24) % 3 == k].copy() for k, name in enumerate(NAMES)}
    rules = federated.Rules(min_samples=1)
    plain, hidden, again = (
        federated.simulate(parts, "~ batch + condition", rules=rules._replace(masks=masks))
        for masks in (False, None, True)
    )
    assert plain.rounds == hidden.rounds
    assert list(hidden.cells.columns) == ["all sites"]
    assert list(hidden.cells["all sites"]) == list(plain.cells.sum(axis=1))
    a, b = plain.table, hidden.table
    assert list(a["status"]) == list(b["status"])
    limit = 1e-9 * (a["log2_fold_change"].abs() + a["lfc_se"])  # as it is promised
    known = a["lfc_se"].notna()
    assert np.all(((a["log2_fold_change"] - b["log2_fold_change"]).abs() <= limit)[known])
    ours, theirs = get.genes(hidden.adata), get.genes(plain.adata)
    np.testing.assert_allclose(ours["dispersion"], theirs["dispersion"], rtol=1e-9)
    # Of the same totals nothing that left the sites is the same; two limbs weigh twice a number.
    sent, before = hidden.disclosure, plain.disclosure
    assert set(sent["digest"]).isdisjoint(before["digest"])
    assert sent["bytes"].sum() == pytest.approx(2 * before["bytes"].sum(), rel=0.01)
    # Rounds, and so what is asked, do not depend on the keys; all that is sent does.
    assert set(sent["digest"]).isdisjoint(again.disclosure["digest"])
    for name in hidden.table:
        np.testing.assert_array_equal(hidden.table[name], again.table[name])


def test_two_sites_have_masks_when_asked():
    rules = federated.Rules()
    assert [rules.masked(n) for n in (1, 2, 3)] == [False, False, True]
    assert rules._replace(masks=True).masked(2)
    assert not rules._replace(masks=False).masked(3)
