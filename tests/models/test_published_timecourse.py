"""The published code's run on 500 genes, df 7, 10 clusters (Giordano et al. 2019)."""

import itertools
import json

import numpy as np
import pytest

from expressway.core import newton
from expressway.models import clusters as cl
from expressway.models import curves as cv
from expressway.models import mixture as mx
from expressway.models import timecourse as tc
from expressway.models.curves import Curves


class Published:
    """The published code's run on 500 genes, df 7, 10 clusters, and the same problem here."""

    def __init__(self, folder):
        self.z = np.load(folder / "shoemaker500.df7.k10.npz")
        self.about = json.loads((folder / "shoemaker500.df7.k10.json").read_text())
        turn = self.z["transform"]
        frame = cv.Frame(self.z["unrot"], turn, np.linalg.pinv(turn), np.mean(self.z["X"], axis=0))
        self.stage = Curves(self.z["Y"], None, frame, 0.0)
        self.t = mx.terms(self.stage.observed(np.ones(42)))
        xo = self.z["xo"]
        certificate = newton.judged(mx.closed(self.t, 10), xo).certificate
        there = cl.Clusters(mx.of_vector(xo, 9), float(self.z["kl"]), certificate, ())
        self.found = tc.differentiated(self.stage, there, self.t)
        times = self.z["t"]
        self.folds = []
        for each in self.about["cv"]:
            left = np.unique(times)[each["inds"]]
            rows = np.flatnonzero(np.isin(times, left))
            self.folds.append(tc.Fold("+".join(map(str, left)), rows))


@pytest.fixture(scope="module")
def published(data):
    return Published(data / "reference")


SETTINGS = tc.Settings(error="absolute", leak=True, corrected=False)


def test_the_published_optimum_and_jackknife(published):
    """At its optimum, the agreement that was asked for."""
    z, t = published.z, published.t
    value, gradient = mx.value_gradient(z["xo"], t)
    assert value == pytest.approx(float(z["kl"]), rel=1e-10)
    assert np.linalg.norm(gradient) == pytest.approx(published.about["grad_norm"], rel=1e-2)
    np.testing.assert_allclose(mx.hessian(z["xo"], t), z["H"], rtol=0, atol=1e-10)
    # Entries of the jackknife are up to 60.
    np.testing.assert_allclose(published.found.sensitivity, z["Smix"], rtol=0, atol=1e-10)
    # The optimum itself is nearer than its gradient of 5e-9 over the smallest curvature of 5e-4.
    ours = cl.solve(mx.of_vector(z["xo"], 9), t)
    assert ours.certificate.gradient_norm < 1e-12
    assert ours.objective <= float(z["kl"]) + 1e-12
    np.testing.assert_allclose(ours.mixture.vector(), z["xo"], atol=1e-5)


def test_the_published_errors(published):
    told = tc.cross_validate(published.stage, published.found, published.folds, SETTINGS)
    xo = published.z["xo"]
    for left, each in zip(told, published.about["cv"], strict=True):
        for name, theirs in (("train", "mae_train"), ("ij", "mae_ij")):
            assert np.mean(left.error[name]) == pytest.approx(each[theirs], abs=1e-9)
        assert left.note == ""
        if each["inds"] == [0, 1]:
            continue  # see below
        # Where Newton's methods stopped: gradients of 1e-8 over curvatures of 1e-4.
        assert np.mean(left.error["exact"]) == pytest.approx(each["mae_cv"], abs=1e-6)
        assert np.linalg.norm(left.theta["exact"] - xo) == pytest.approx(each["dx"], abs=1e-6)
        error = np.linalg.norm(left.theta["ij"] - left.theta["exact"]) / each["dx"]
        assert error == pytest.approx(each["lin_err_rel"], abs=1e-6)


def test_where_the_objective_curves_downwards_no_prediction_is_trusted(published):
    """Without the second time the prediction is beyond a saddle, though its error is near."""
    (left,) = tc.cross_validate(
        published.stage, published.found, published.folds[1:2], SETTINGS._replace(corrected=True)
    )
    ends = [np.mean(left.error[name]) for name in ("ij", "corrected")]
    assert abs(ends[0] - ends[1]) < tc.AGREE * ends[1]
    assert left.conditioning > tc.LEFT
    assert left.curvature < 0
    assert not left.trusted


# To which cluster of the published optimum each gene belongs once times 0 and 3 are left out.
ELSEWHERE = (
    "92822022852889028296528850545850555695583652602459920850008038280380888695852586868555250988"
    "04525552685592250891625592252820505854855525586028005658689306582040582088666604209642888805"
    "28865480055568545003736450553805005665520680862260558690240205628888882452885585840069298458"
    "48822880203280526055403145860858064835622650556508190829080026402829850500542083058585522295"
    "50665281285456526958286825283080500286474022552553258855654554465655825254801886908802888888"
    "8592826652968908860930455208656595703586"
)


def test_the_published_optimum_of_the_fold_that_ends_elsewhere(published):
    """Without the first two times F has several optima near the start.

    .9 % of the information on curves is left in one direction. Which optimum a method reaches from
    that of all samples depends on its first steps: SciPy's trust regions, in coordinates scaled as
    the published ones, end at the published one or at ours by their first radius. They differ by
    where nine of the 500 genes belong, .006 of F (the published one is lower, a third lower yet)
    and .0017 of the error. Ours is an optimum, not to be trusted for what little is left; at the
    published one distance and error are the published ones.
    """
    fold, theirs = published.folds[-1], published.about["cv"][-1]
    weight = fold.weight(42)
    stage = published.stage
    t = mx.terms(stage.observed(weight))
    (left,) = tc.cross_validate(stage, published.found, [fold], SETTINGS)
    ours = left.theta["exact"]
    assert np.linalg.norm(mx.value_gradient(ours, t)[1]) < 1e-10
    assert np.linalg.eigvalsh(mx.hessian(ours, t))[0] > 1e-4
    assert left.conditioning < tc.LEFT
    assert not left.trusted
    assert np.mean(left.error["exact"]) == pytest.approx(theirs["mae_cv"], abs=0.01)

    label = np.array([int(each) for each in ELSEWHERE])
    precision = [np.sum(t.observed.precision[label == k], axis=0) for k in range(10)]
    pull = [np.sum(t.pull[label == k], axis=0) for k in range(10)]
    weights = np.bincount(label) / 500
    start = mx.Mixture(
        np.linalg.solve(precision, np.array(pull)[:, :, None])[:, :, 0], np.log(weights)
    )
    other = cl.solve(start, t)
    away = np.linalg.norm(other.mixture.vector() - published.z["xo"])
    assert away == pytest.approx(theirs["dx"], abs=1e-6)
    curve = mx.members(other.mixture, published.t).responsibility @ other.mixture.centroids
    error = stage.errors(fold.rows, weight, curve @ stage.frame.u.T, "mean")
    assert np.mean(np.abs(error)) == pytest.approx(theirs["mae_cv"], abs=1e-6)
    assert other.objective == pytest.approx(mx.value_gradient(ours, t)[0], abs=0.1)


def test_the_published_objective_from_our_own_starts(published):
    """In our own frame of the same basis, with published settings, from scratch."""
    stage = published.stage._replace(frame=cv.frame(published.z["X"]))
    found = cl.fit(mx.terms(stage.observed(np.ones(42))), 10, starts=20)
    assert found.objective <= float(published.z["kl"])
    assert found.certificate.gradient_norm < 1e-8


def test_all_folds_of_up_to_three_times(published):
    """The jackknife's 63 predictions are one product; each is that of its fold."""
    times = np.unique(published.z["t"])[:7]
    theta = published.z["xo"]
    for size in (1, 2, 3):
        for left in itertools.combinations(times, size):
            weight = np.where(np.isin(published.z["t"], left), 0.0, 1.0)
            expected = theta - np.sum(published.z["Smix"][:, weight == 0], axis=1)
            np.testing.assert_allclose(published.found.at(weight), expected, atol=1e-9)
