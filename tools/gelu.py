"""Derive the polynomials of GELU in `restormer_cli/inference/native/block.cpp`.

x Phi(x) with Phi(x) = 1/2 + x P(u) and u = 2 (x / limit)^2 - 1, in fp32, for |x| < limit. Beyond
it, the leading coefficient drives the sum out of 0..1, to which it is clamped. The largest error of
x Phi(x) is minimised by least squares with weights that grow where the error is large (Lawson,
"Contributions to the Theory of Linear Least Maximum Approximation", 1961). Prints the tables of C++
and the largest absolute error for |x| <= 12.
"""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
from numpy.polynomial import chebyshev

TABLES = (("bf16", 3.95, 7), ("float", 5.1, 13))
"""Type, limit and number of coefficients, which must be odd for a positive leading one."""


def phi(x: np.ndarray) -> np.ndarray:
    """Return the normal distribution function in double precision."""
    return np.array([(1 + erf(v / sqrt(2))) / 2 for v in x])


def fit(limit: float, count: int) -> np.ndarray:
    """Return the coefficients of P, highest power first."""
    x = limit * np.sin(np.linspace(0.002, pi / 2, 600))
    terms = chebyshev.chebvander(2 * (x / limit) ** 2 - 1, count - 1) * x[:, None] ** 2
    wanted = x * (phi(x) - 0.5)
    weights = np.ones_like(x)
    for _ in range(200):
        root = np.sqrt(weights)
        series = np.linalg.lstsq(terms * root[:, None], wanted * root, rcond=None)[0]
        weights *= np.abs(terms @ series - wanted) + 1e-9
        weights /= weights.sum()
    return chebyshev.cheb2poly(series)[::-1].astype(np.float32)


def approximate(x: np.ndarray, coefficients: np.ndarray, limit: float) -> np.ndarray:
    """Return x Phi(x) as the C++ computes it."""
    u = x * x * np.float32(2 / limit**2) - np.float32(1)
    p = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        p = p * u + coefficient
    return x * np.clip(p * x + np.float32(0.5), 0, 1)


if __name__ == "__main__":
    points = np.linspace(-12, 12, 240_001, dtype=np.float32)
    for kind, limit, count in TABLES:
        coefficients = fit(limit, count)
        error = np.abs(approximate(points, coefficients, limit) - points * phi(points)).max()
        listed = ", ".join(f"{c:.9g}f" for c in coefficients)
        print(f"// {kind}: limit {limit}, error at most {error:.1e}\n{{{listed}}}")  # noqa: T201
