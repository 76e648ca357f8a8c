"""The gamma ratio against sixty digits, SciPy and autodiff.

`EXACT` was printed by this script (mpmath 1.4.1; r is the double nearest to what is written)::

    from mpmath import log, loggamma, mp, mpf, nstr, psi

    mp.dps = 60
    for size in (0.05, 0.3, 1, 2.5, 20, 1000, 1e6, 1e8):
        for count in (1, 3, 50, 3000, 10**7):
            r, y = mpf(float(size)), mpf(count)
            value = loggamma(y + r) - loggamma(r) - y * log(r)
            first, second = psi(0, y + r) - psi(0, r), psi(1, y + r) - psi(1, r)
            print((size, count, *(nstr(v, 20) for v in (value, first, second))))

with values below 1e-50 (y = 1, where log(1) = 0) written as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from expressway.core.special import gamma_ratio

# r, y, lgamma(y + r) - lgamma(r) - y log r, the same difference of digamma, of trigamma.
EXACT = np.array(
    [
        (0.05, 1, 0.0, 19.99999999999999889, -399.99999999999995559),
        (0.05, 3, 6.7580945044277306933, 21.440185830429731755, -401.14498307750619108),
        (0.05, 50, 291.57860314983325442, 24.400844221632316321, -401.51217639230063858),
        (0.05, 3000, 30000.646737400138557, 28.504062552330009614, -401.53202395877732824),
        (0.05, 1e7, 181138269.94203940244, 36.615940597258188449, -401.53235724211507039),
        (0.3, 1, 0.0, 3.3333333333333334567, -11.111111111111111933),
        (0.3, 3, 3.5032189960544671047, 4.53734671125975487, -11.89186300426666949),
        (0.3, 50, 204.84009029903123928, 7.4105560058497588749, -12.225284899458494382),
        (0.3, 3000, 24629.2429757304049, 11.508825125591639094, -12.245031190553781202),
        (0.3, 1e7, 163220681.15236396421, 19.62061985315845313, -12.245364446107729301),
        (1, 1, 0.0, 1.0, -1.0),
        (1, 3, 1.7917594692280550008, 1.8333333333333333333, -1.3611111111111111111),
        (1, 50, 148.47776695177303207, 4.4992053383294250576, -1.6251327336215293107),
        (1, 3000, 21024.024853045547701, 8.5837498899591871143, -1.6446007890642758193),
        (1, 1e7, 151180965.4875695649, 16.695311365859851815, -1.6449339668482314365),
        (2.5, 1, 0.0, 0.4, -0.16),
        (2.5, 3, 0.92425890152333193869, 0.90793650793650793651, -0.29101536911060720585),
        (2.5, 50, 108.28359117049095941, 3.2481024862093239392, -0.4711275794570139753),
        (2.5, 3000, 18286.878150765239455, 7.3038773761716269441, -0.49002464484415456036),
        (2.5, 1e7, 142018082.06128880771, 15.414939210313057018, -0.49035765610025486497),
        (20, 1, 0.0, 0.05, -0.0025),
        (20, 3, 0.14410034397375686311, 0.14307359307359307359, -0.0068336893986244635595),
        (20, 50, 37.064050458828549624, 1.2708113862086755911, -0.036882581944343245355),
        (20, 3000, 12149.672328536790898, 5.0423225460758329329, -0.050939642279180616788),
        (20, 1e7, 121223909.65598183596, 13.147573608714269906, -0.051270722935398119451),
        (1000, 1, 0.0, 0.001, -1.0e-6),
        (1000, 3, 0.0029975029957565891851, 0.0029970049910169670649, -2.994014964084802454e-6),
        (1000, 50, 1.2052733275652971919, 0.048813981440783511226, -0.000047665555573544956404),
        (1000, 3000, 2544.4842347990052644, 1.3866694392448823181, -0.00075046891406246669924),
        (1000, 1e7, 82113609.504828628474, 9.2109404003148397113, -0.001000400176660634433),
        (1e6, 1, 0.0, 1.0e-6, -1.0e-12),
        (1e6, 3, 2.9999975000029999958e-6, 2.999997000004999991e-6, -2.999994000014999964e-12),
        (1e6, 50, 0.0012249797880001934797, 0.000049998775040423499434, -4.9997550121268997797e-11),
        (1e6, 3000, 4.4940089831350965628, 0.0029955104753124361917, -2.9910299057975624517e-9),
        (1e6, 1e7, 16376846.801834363828, 2.3978957273439077341, -9.090914049588442274e-7),
        (1e8, 1, 0.0, 1.0e-8, -1.0e-16),
        (1e8, 3, 2.9999999750000003e-8, 2.9999999700000005e-8, -2.9999999400000015e-16),
        (1e8, 50, 0.000012249997978750500208, 4.9999987750004042498e-7, -4.9999975500012127494e-15),
        (1e8, 3000, 0.044984550231720379354, 0.00002999955015899529814, -2.9999100326985692064e-13),
        (1e8, 1e7, 484119.73082064462691, 0.095310180258870316036, -9.0909091776859508277e-10),
    ]
)
# Absolute errors, relative to max(1, y), that the docstring of gamma_ratio promises.
PROMISED = {"log": 3e-14, "digamma": 1e-14, "trigamma": 1e-13}


def ratio_of(y, r):
    """The ratio at matching pairs: one sample, a gene a pair."""
    return gamma_ratio(np.asarray(y, float)[None], np.asarray(r, float), np.ones((1, 1)))


@pytest.mark.parametrize(("power", "name"), list(enumerate(PROMISED)))
def test_equals_sixty_digits(power, name):
    r, y = EXACT[:, 0], EXACT[:, 1]
    error = np.asarray(getattr(ratio_of(y, r), name)) - EXACT[:, 2 + power]
    assert np.all(np.abs(error) * r**power / np.maximum(1, y) < PROMISED[name])


def test_equals_scipy_where_scipy_keeps_its_digits():
    r, y = (a.ravel() for a in np.meshgrid([0.05, 0.4, 1.7, 9, 40], [0, 1, 2, 7, 30, 111, 2000]))
    ours = ratio_of(y, r)
    log = special.gammaln(y + r) - special.gammaln(r) - y * np.log(r)
    # SciPy's terms are below 2e4 and rounded to 2e-16 of that each.
    np.testing.assert_allclose(ours.log, log, rtol=1e-13, atol=1e-11)
    digamma = special.digamma(y + r) - special.digamma(r)
    trigamma = special.polygamma(1, y + r) - special.polygamma(1, r)
    # Terms up to 20 and 400, a few roundings each.
    np.testing.assert_allclose(ours.digamma, digamma, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(ours.trigamma, trigamma, rtol=1e-13, atol=1e-12)


def test_small_dispersion_keeps_digits_that_lgamma_loses():
    r, y = 1e8, np.array([3.0, 50.0, 3000.0])
    exact = EXACT[(EXACT[:, 0] == r) & np.isin(EXACT[:, 1], y)]
    ours = ratio_of(y, np.full(3, r))
    naive = special.gammaln(y + r) - special.gammaln(r) - y * np.log(r)
    naive_slope = special.digamma(y + r) - special.digamma(r)
    # Terms of 1.7e9 rounded to 2e-16 of that: nothing left of 3e-8, five digits lost at .045.
    assert np.all(np.abs(naive - exact[:, 2]) > 1e-8)
    assert np.all(np.abs(naive_slope / exact[:, 3] - 1) > 1e-12)
    # The sum of terms of size y and 1: some roundings of each.
    assert np.all(np.abs(ours.log - exact[:, 2]) < 3e-15 * y)
    np.testing.assert_allclose(r * ours.digamma, r * exact[:, 3], rtol=1e-14)
    np.testing.assert_allclose(r**2 * ours.trigamma, r**2 * exact[:, 4], rtol=1e-14)


def test_no_count_gives_zero():
    ours = ratio_of(np.zeros(4), [0.05, 1, 1e3, 1e8])
    for part in ours:
        np.testing.assert_array_equal(part, np.zeros(4))


def test_derivatives_follow_each_other():
    r = np.array([0.05, 0.6, 3.0, 80.0, 1e4])
    y = np.array([[0.0, 1.0, 12.0, 5.0, 700.0], [4.0, 300.0, 1.0, 1e5, 3.0]])

    def summed(name):
        return lambda r: getattr(gamma_ratio(y, r, np.ones((2, 1))), name)

    def slope(name):
        return jnp.diagonal(jax.jit(jax.jacfwd(summed(name)))(jnp.asarray(r)))

    # The log is less y log r: its derivative in r is digamma - y / r. Autodiff goes through the
    # same series, so the two agree to rounding of terms y / r up to 1e5 / 80 ...
    np.testing.assert_allclose(
        slope("log"), summed("digamma")(r) - np.sum(y, axis=0) / r, rtol=1e-11, atol=1e-12
    )
    # ... and the differentiated series has the same truncation, 8e-16.
    np.testing.assert_allclose(slope("digamma"), summed("trigamma")(r), rtol=1e-11, atol=1e-13)


def test_dispersion_zero_is_the_limit_of_small_ones():
    y = np.array([5.0, 40.0])
    # sum_{k<y} log(1 + k / r) = y (y - 1) / (2 r) (1 + O(y / r)): 1e-6 at y / r = 4e-7.
    ours = ratio_of(y, [1e8, 1e8]).log
    np.testing.assert_allclose(ours, y * (y - 1) / 2e8, rtol=1e-6)
