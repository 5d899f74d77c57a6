"""Turns elementwise ops into work: a count of FLOPs for each element made, with the terms that add up to it.

*Pointwise* is every op whose result at one place depends on its operands at that place, broadcasting included:
arithmetic, activations and their derivatives, comparisons, selections, dropout. An operand that is broadcast is
read once.

Complex numbers are priced as real ones, element by element.
"""

from __future__ import annotations

from ..graph import Op
from .rules import aten, elementwise, rule
from .work import Work, integer, moves, produced

GELU_ERF_FLOPS = 5
"""x * 0.5 * (1 + erf(x / sqrt 2)): multiply, erf, add, multiply, multiply."""
GELU_TANH_FLOPS = 9
"""0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3))): cube (2), multiply, add, multiply, tanh, add, multiply, multiply."""
GELU_ERF_BACKWARD_FLOPS = 11
"""Distribution function (multiply, erf, add, multiply), density (square, multiply, exp, multiply), x * density, add,
times the gradient."""
GELU_TANH_BACKWARD_FLOPS = 18
"""Inner function and its tanh (square, cube, multiply, add, multiply, tanh), halves of both factors and their product
(3), derivative of tanh (2) and of the inner function (3), their product (2), add, times the gradient."""
DROPOUT_FLOPS = 3
"""Compare with the drawn number, multiply by the mask, multiply by 1 / (1 - p). Drawing is integer arithmetic."""

elementwise(
    1,
    "mul multiply div divide true_divide floor_divide remainder fmod reciprocal neg negative abs absolute sign sgn "
    "square sqrt rsqrt pow float_power exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh "
    "tanh asinh acosh atanh arctan2 erf erfc erfinv lgamma digamma polygamma special_i0e special_i1 special_i1e i0 "
    "special_entr special_ndtri special_log_ndtr special_erfcx floor ceil round trunc fix frac nan_to_num "
    "hypot copysign deg2rad rad2deg positive angle real imag polar complex frexp",
    because="one multiply, division, negation, rounding or elementary function",
)
elementwise(
    1,
    "igamma igammac special_zeta special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 "
    "special_bessel_y1 special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 "
    "special_modified_bessel_k1 special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 "
    "special_spherical_bessel_j0 special_chebyshev_polynomial_t special_chebyshev_polynomial_u "
    "special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_shifted_chebyshev_polynomial_t "
    "special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
    "special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he "
    "special_laguerre_polynomial_l special_legendre_polynomial_p",
    because="one special function, whatever series it is",
)
elementwise(
    1,
    "eq ne lt le gt ge greater greater_equal less less_equal not_equal maximum minimum fmax fmin "
    "clamp_min clamp_max relu where isnan isinf isfinite isposinf isneginf isclose signbit heaviside "
    "masked_fill threshold threshold_backward logical_and logical_or logical_xor logical_not bitwise_and bitwise_or "
    "bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ "
    "__iand__ __ior__ __ixor__ __ilshift__ __irshift__ nextafter gcd lcm",
    because="one comparison, selection or logical operation",
)
elementwise(2, "clamp clip hardtanh relu6 leaky_relu _prelu_kernel", because="two comparisons, or one and a multiply")
elementwise(
    2,
    "hardtanh_backward leaky_relu_backward _masked_scale native_dropout_backward _add_relu rrelu_with_noise "
    "rrelu_with_noise_backward rrelu_with_noise_functional softshrink hardshrink "
    "hardshrink_backward softshrink_backward",
    because="a comparison or a mask, and one multiply or add",
)
elementwise(2, "xlogy special_xlogy special_xlog1py sinc special_sinc", because="an elementary function, a multiply")
elementwise(2, "ldexp _transform_bias_rescale_qkv", because="a power of two or a bias, and a multiply")
elementwise(3, "lerp", because="start + weight * (end - start)")
elementwise(3, "sigmoid_backward", because="gradient * y * (1 - y)")
elementwise(3, "tanh_backward", because="gradient * (1 - y * y)")
elementwise(3, "logit", because="log(x / (1 - x))")
elementwise(3, "logit_backward", because="gradient / (x * (1 - x))")
elementwise(4, "sigmoid special_expit", because="1 / (1 + exp(-x)): negate, exp, add, reciprocal")
elementwise(4, "silu", because="x / (1 + exp(-x)): negate, exp, add, divide")
elementwise(9, "silu_backward", because="sigmoid (4), then gradient * s * (1 + x * (1 - s)): 5")
elementwise(4, "elu celu selu", because="comparison, exp, subtract, multiply")
elementwise(4, "elu_backward", because="comparison, exp or add, two multiplies")
elementwise(4, "hardsigmoid", because="add, two comparisons, divide")
elementwise(3, "hardsigmoid_backward", because="two comparisons, one multiply")
elementwise(5, "hardswish", because="add, two comparisons, multiply, divide")
elementwise(6, "hardswish_backward", because="two comparisons, divide, add, multiply, select")
elementwise(5, "softplus", because="multiply by beta, comparison, exp, log1p, divide")
elementwise(6, "softplus_backward", because="multiply by beta, comparison, exp, add, divide, multiply")
elementwise(4, "mish", because="x * tanh(log1p(exp(x)))")
elementwise(
    11, "mish_backward", because="tanh of softplus (3), sigmoid (4), t + x * s * (1 - t * t), times the gradient"
)
elementwise(5, "logaddexp logaddexp2", because="maximum, difference, exp, log1p, add")

elementwise(4, "exponential_ geometric_ cauchy_", because="one draw to (0, 1): log or tan, divide, subtract, multiply")


def addition(op: Op) -> Work:
    """One add per element; a factor ``alpha`` is one multiply, unless it is 1."""
    return moves(op, vector_flops=(1 + (op.get("alpha", 1) != 1)) * produced(op))


def product_added(op: Op) -> Work:
    """A multiply or division and an add; a factor is one multiply, unless it is 1."""
    factor = op.get("value", op.get("scalars", 1))
    return moves(op, vector_flops=(2 + (factor != 1)) * produced(op))


rule(*aten("add sub subtract rsub"))(addition)
rule(*aten("addcmul addcdiv"))(product_added)


@rule("aten.gelu")
def gelu(op: Op) -> Work:
    """Gelu by the error function, or by its tanh approximation."""
    flops = GELU_TANH_FLOPS if op.get("approximate", "none") == "tanh" else GELU_ERF_FLOPS
    return moves(op, vector_flops=flops * produced(op))


@rule("aten.gelu_backward")
def gelu_backward(op: Op) -> Work:
    """The derivative of either gelu."""
    flops = GELU_TANH_BACKWARD_FLOPS if op.get("approximate", "none") == "tanh" else GELU_ERF_BACKWARD_FLOPS
    return moves(op, vector_flops=flops * produced(op))


@rule(*aten("native_dropout _fused_dropout"))
def dropout(op: Op) -> Work:
    """Three per element of the result; the mask beside it is one of the three."""
    return moves(op, vector_flops=DROPOUT_FLOPS * op.outputs[0].numel)


@rule("aten.glu")
def glu(op: Op) -> Work:
    """A sigmoid of one half (4) and its product with the other, per element of the result."""
    return moves(op, vector_flops=5 * produced(op))


@rule("aten.glu_backward")
def glu_backward(op: Op) -> Work:
    """Per pair of halves: sigmoid (4), gradient * s, then times x * (1 - s) (3)."""
    return moves(op, vector_flops=8 * (op.tensor("self").numel // 2))


@rule("aten.mvlgamma")
def multivariate_gamma(op: Op) -> Work:
    """For each of p dimensions a difference, a log-gamma and an add."""
    return moves(op, vector_flops=3 * integer(op, "p", 1) * produced(op))


@rule("aten._prelu_kernel_backward")
def prelu_backward(op: Op) -> Work:
    """Two selections and two multiplies per element: one gradient for the input, one for the slope."""
    return moves(op, vector_flops=4 * op.tensor("self").numel)


@rule("aten.log_sigmoid_forward")
def log_sigmoid(op: Op) -> Work:
    """min(x, 0) - log1p(exp(-|x|)): absolute, negate, exp, log1p, minimum, subtract."""
    return moves(op, vector_flops=6 * op.tensor("self").numel)


@rule("aten.log_sigmoid_backward")
def log_sigmoid_backward(op: Op) -> Work:
    """The sigmoid of -x times the gradient, told apart by sign: exp, add, divide, subtract, select, multiply."""
    return moves(op, vector_flops=6 * op.tensor("self").numel)
