"""Packing: many numbers as one short string of JSON, exact to the last bit that was kept."""

import base64
from collections.abc import Iterable
from math import frexp, ldexp

import numpy as np

_BITS = 24  # of the mantissa of a short number; with sign and exponent it fills the upper five bytes of a float64
_BYTES = 5
_WHOLE = 1.5 * 2.0 ** (52 - _BITS)  # a mantissa added to it is rounded to so many bits, half to even


def short(number: float) -> float:
    """A number rounded to eight digits, of which `packed` needs seven characters where it is told so; 0 below 1e-308."""
    mantissa, exponent = frexp(number)
    if exponent < -1021:  # the bits of a subnormal number lie in the bytes left out
        return 0.0
    return ldexp(mantissa + _WHOLE - _WHOLE, exponent)


def packed(numbers: Iterable[float], *, are_short: bool = False) -> str:
    """Little-endian float64 in base64, 11 characters a number; 7 where all are `short`."""
    column = np.array(list(numbers), dtype="<f8").view(np.uint8).reshape(-1, 8)
    return base64.b64encode((column[:, 8 - _BYTES :] if are_short else column).tobytes()).decode()


def unpacked(text: str, *, are_short: bool = False) -> list[float]:
    """The numbers of a packed string."""
    stored = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(-1, _BYTES if are_short else 8)
    column = np.zeros((stored.shape[0], 8), dtype=np.uint8)
    column[:, 8 - stored.shape[1] :] = stored
    return [float(number) for number in column.view("<f8").ravel()]
