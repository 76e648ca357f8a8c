"""Noise with the distribution that it claims, and a budget that nobody can overdraw."""

import threading

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from expressway.run import ProtocolError
from expressway.run.privacy import Account, Spent, discrete_gaussian, epsilon, noise


def probability(x, variance):
    """The discrete Gaussian, with its constant summed up."""
    every = np.arange(-400, 401)
    return np.exp(-(x**2) / (2 * variance)) / np.exp(-(every**2) / (2 * variance)).sum()


@pytest.mark.parametrize("variance", [1, 7, 300])
def test_noise_is_a_discrete_gaussian(variance):
    found = noise((20_000,), variance)
    sd = variance**0.5
    inner = np.arange(np.ceil(-2.5 * sd), np.floor(2.5 * sd) + 1)
    step = max(1, len(inner) // 30)
    edges = np.concatenate([[-np.inf], inner[::step] - 0.5, [np.inf]])
    every = np.arange(-400, 401)
    expected, _ = np.histogram(every, edges, weights=probability(every, variance))
    observed, _ = np.histogram(found, edges)

    def p(counts):
        return stats.chisquare(counts, 20_000 * expected / expected.sum()).pvalue

    assert p(observed) > 1e-6  # one run of a million fails by chance
    # What the test would catch: a rounded continuous Gaussian of a variance 20% less.
    rng = np.random.default_rng(0)
    wrong, _ = np.histogram(np.rint(rng.normal(0, (0.8 * variance) ** 0.5, 20_000)), edges)
    assert p(wrong) < 1e-6


def test_noise_has_no_size_at_which_it_ends():
    """Of 2^80 too: whole numbers of any length."""
    found = [discrete_gaussian(2**160) / 2**80 for _ in range(2000)]
    assert stats.kstest(found, "norm").pvalue > 1e-6


def test_epsilon_is_that_of_the_paper():
    # Bun and Steinke 2016, proposition 1.3, by hand: .5 + 2 sqrt(.5 * 13.8155).
    assert epsilon(0.5, 1e-6) == pytest.approx(5.7565, abs=1e-4)


def test_what_is_not_left_is_refused(tmp_path):
    path = tmp_path / "privacy.csv"
    account = Account(1.0, path)
    for k in range(10):
        account.spend(f"run {k}", 0.1, "20 genes by study")
    assert account.left == 0.0
    before = path.read_text()
    with pytest.raises(ProtocolError, match=r"a rho of 0\.01 is asked, and 0 is left of its"):
        account.spend("again", 0.01, "one more")
    assert path.read_text() == before
    told = pd.read_csv(path)
    assert list(told.columns) == list(Spent._fields)
    assert told["rho"].sum() == pytest.approx(1.0)
    # A new process of the site knows it, and so does one with a larger budget.
    with pytest.raises(ProtocolError, match="0 is left"):
        Account(1.0, path).spend("again", 0.01, "one more")
    Account(1.5, path).spend("again", 0.5, "one more")


def test_nothing_is_spent_without_a_budget(tmp_path):
    with pytest.raises(ProtocolError, match="publishes nothing"):
        Account(0.0, tmp_path / "privacy.csv").spend("run", 0.1, "")
    assert not (tmp_path / "privacy.csv").exists()


def test_runs_at_the_same_time_share_one_budget(tmp_path):
    path, refused = tmp_path / "privacy.csv", []

    def spend(k):
        try:
            Account(1.0, path).spend(f"run {k}", 0.1, "")
        except ProtocolError:
            refused.append(k)

    threads = [threading.Thread(target=spend, args=(k,)) for k in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20
    assert len(pd.read_csv(path)) == 10


def test_a_damaged_record_is_said(tmp_path):
    path = tmp_path / "privacy.csv"
    path.write_text("time,run,rho,about\n2026,run,much,\n")
    with pytest.raises(ProtocolError, match="its record of what was published cannot be read"):
        Account(1.0, path).spend("run", 0.1, "")
    # Who publishes nothing takes part in analyses all the same.
    assert Account(0.0, path).left == 0.0
