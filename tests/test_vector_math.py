"""Our own exp and friends, compiled, against the C library's in a wider type: how many ulp they are off."""

import ctypes

import mpmath
import numpy as np
import pytest
import scipy.special
from compiling import COMPILER

from bpl_neuro.backend.c_source import OWN, common
from bpl_neuro.backend.compiler import compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

NAMES = (*OWN, "sigmoid")
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 709.78271289338397, 709.8, -745.13, -745.14, 88.72, -103.97]


def most(name):
    return 3 if name == "sigmoid" else 2


def loop(name, dtype, text=lambda source: source):
    """A function over arrays."""
    line = f"void loop(long n, const REAL *x, REAL *y) {{ for (long i = 0; i < n; ++i) y[i] = own_{name}(x[i]); }}\n"
    library = compiled(text(f"{common(dtype == np.float32)}\n{line}"))

    def call(x):
        x, y = np.ascontiguousarray(x, dtype), np.empty(len(x), dtype)
        library.loop(ctypes.c_long(len(x)), *(ctypes.c_void_p(a.ctypes.data) for a in (x, y)))
        return y

    return call


def exact(name, x):
    """In the precision of x."""
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            E = np.exp(-np.abs(x))
            return np.where(x < 0, E, 1) / (1 + E)
        return getattr(np, name)(x)


def ulps(found, right):
    """How far results are off, in units of their last place; infinity where one is special and the other is not."""
    info = np.finfo(found.dtype)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(np.abs(right))
        ulp = np.ldexp(right.dtype.type(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
        off = np.abs(found.astype(right.dtype) - right) / ulp
        rounded = right.astype(found.dtype)
    same = (found == rounded) | (np.isnan(found) & np.isnan(right))
    return np.where(same & ~(off < np.inf), 0, np.where(np.isnan(off), np.inf, off))


def single(name, bits):
    """The largest error over some bit patterns of float32."""
    x = bits.astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        right = scipy.special.erf(x.astype(float)) if name == "erf" else exact(name, x.astype(float))
    return ulps(loop(name, np.float32)(x), right).max()


@pytest.mark.parametrize("name", NAMES)
def test_float32_over_all_bit_patterns(name):
    assert single(name, np.arange(0, 2**32, 4099)) <= most(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float32_at_every_bit_pattern(name):
    """Ten minutes each."""
    for start in range(0, 2**32, 2**25):
        assert single(name, np.arange(start, start + 2**25)) <= most(name)


def doubles(count, seed=0):
    """Bit patterns at random, all sizes around 0, and the neighbourhood of 0 and of overflow."""
    rng, part = np.random.default_rng(seed), count // 4
    return np.concatenate([
        rng.integers(0, 2**64, part, dtype=np.uint64).view(float),
        rng.normal(size=part) * 10.0 ** rng.uniform(-3, 2.9, part), rng.uniform(-2, 2, part),
        rng.uniform(-760, 760, part), SPECIAL, np.ldexp(rng.uniform(-1, 1, 100), -1022),
    ])  # fmt: skip


def double(name, count, seed=0):
    x = doubles(count, seed)
    found = loop(name, np.float64)(x)
    if name == "erf":  # NumPy has none that is wider
        x = np.concatenate([x[np.abs(x) < 7][:5_000], np.random.default_rng(seed).uniform(-7, 7, 15_000)])
        found = loop(name, np.float64)(x)
        with mpmath.workprec(80):
            right = np.array([np.longdouble(mpmath.nstr(mpmath.erf(mpmath.mpf(float(v))), 24)) for v in x])
        return ulps(found, right).max()
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return ulps(found, exact(name, x.astype(np.longdouble))).max()


wide = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than double here")


@wide
@pytest.mark.parametrize("name", NAMES)
def test_float64_against_long_double(name):
    assert double(name, 200_000) <= most(name)


@wide
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float64_at_ten_million_places(name):
    for seed in range(10):
        assert double(name, 10**6, seed) <= most(name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_special_stays_special(dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    right = {
        "exp": [1, 1, np.inf, 0, np.nan], "expm1": [0, -0.0, np.inf, -1, np.nan], "tanh": [0, -0.0, 1, -1, np.nan],
        "log": [-np.inf, -np.inf, np.inf, np.nan, np.nan], "log1p": [0, -0.0, np.inf, np.nan, np.nan],
        "erf": [0, -0.0, 1, -1, np.nan], "sigmoid": [0.5, 0.5, 1, 0, np.nan],
    }  # fmt: skip
    for name in NAMES:
        found = loop(name, dtype)(x)
        np.testing.assert_array_equal(found, np.array(right[name], dtype))
        assert (np.signbit(found) == np.signbit(np.array(right[name])))[~np.isnan(found)].all()


def test_a_wrong_coefficient_is_seen():
    wrong = loop("tanh", np.float32, lambda source: source.replace("TERM(0.1333331287f)", "TERM(0.1333341287f)"))
    x = np.linspace(-0.6, 0.6, 10_001).astype(np.float32)
    assert ulps(wrong(x), np.tanh(x.astype(float))).max() > most("tanh")
