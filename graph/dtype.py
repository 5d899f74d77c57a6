"""Element types by their torch name without the prefix, and their size in bytes."""

from __future__ import annotations

ITEMSIZE = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
}


def itemsize(dtype: str) -> int:
    """Bytes of one element of `dtype` (a torch dtype's name without ``torch.``).

    >>> itemsize("bfloat16")
    2

    Raises ``KeyError`` for a name torch does not have.
    """
    return ITEMSIZE[dtype]


def is_floating(dtype: str) -> bool:
    """True for real floating-point types, the ones that carry a gradient or use tensor cores."""
    return dtype.startswith(("float", "bfloat"))
