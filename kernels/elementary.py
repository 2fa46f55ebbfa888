"""The functions that formulas of elementwise ops may call; loops over them vectorise.

All are formulas over `real` values without a branch, a table or a call; in a formula, float literals are `real`.
docs/accuracy.md says how far the functions lie from the exact values. Polynomials were fitted at Chebyshev nodes with
50 digits (tests/test_coefficients.py derives them again).
"""

from ._primitives import select
from .exponential import clamp, exp, expm1, log, log1p, pow, softplus
from .gates import erf, normal_cdf, normal_pdf, sigmoid, sigmoid_slope, tanh, tanhshrink
from .trigonometry import cos, sin

__all__ = ["clamp", "cos", "erf", "exp", "expm1", "log", "log1p", "normal_cdf", "normal_pdf", "pow", "select",
           "sigmoid", "sigmoid_slope", "sin", "softplus", "tanh", "tanhshrink"]
