"""Derive the polynomials of GELU in `restormer_cli/inference/native/block.cpp`.

x Phi(x) = x (1/2 + x P(u)) with u = 2 (x / limit)^2 - 1, in fp32, for |x| < limit. Beyond
it, x P(u) is clamped to 1/2. P is a weighted least-squares fit in Chebyshev polynomials, which is
nearly minimax. Prints the tables of C++ and the largest absolute error for |x| <= 12.
"""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
from numpy.polynomial import chebyshev

TABLES = (("bf16", 4.4, 9), ("float", 5.4, 15))
"""Type, limit and number of coefficients."""


def exact(x: np.ndarray) -> np.ndarray:
    """Return x Phi(x) in double precision."""
    return np.array([v * (1 + erf(v / sqrt(2))) / 2 for v in x])


def fit(limit: float, count: int) -> np.ndarray:
    """Return the coefficients of P, highest power first."""
    u = np.cos(pi * (np.arange(400) + 0.5) / 400)
    x = limit * np.sqrt((u + 1) / 2)
    series = chebyshev.chebfit(u, (exact(x) / x - 0.5) / x, count - 1, w=np.maximum(x, 0.1) ** 1.5)
    return chebyshev.cheb2poly(series)[::-1].astype(np.float32)


def approximate(x: np.ndarray, coefficients: np.ndarray, limit: float) -> np.ndarray:
    """Return x Phi(x) as the C++ computes it."""
    c = np.clip(x, -limit, limit).astype(np.float32)
    u = c * c * np.float32(2 / limit**2) - np.float32(1)
    p = np.full_like(c, coefficients[0])
    for coefficient in coefficients[1:]:
        p = p * u + coefficient
    return x * (np.clip(p * c, -0.5, 0.5) + np.float32(0.5))


if __name__ == "__main__":
    points = np.linspace(-12, 12, 240_001, dtype=np.float32)
    for kind, limit, count in TABLES:
        coefficients = fit(limit, count)
        error = np.abs(approximate(points, coefficients, limit) - exact(points)).max()
        listed = ", ".join(f"{c:.9g}f" for c in coefficients)
        print(f"// {kind}: limit {limit}, error at most {error:.1e}\n{{{listed}}}")  # noqa: T201
