"""Weights in 8 or 4 bits, in the form that ONNX Runtime's MatMulNBits reads.

Each row of a weight matrix is cut into blocks of 32 values that share a scale, and in 4 bits a
zero point as well: 15 steps are too few to waste half of them on a block that leans to one side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_LEN", "Bits", "QuantizedWeight", "quantize_weight"]

BLOCK_LEN = 32
"""Values per scale; the smallest that MatMulNBits takes in both widths, 16 aside."""

Bits = Literal[4, 8] | None
"""Bits per value of a weight matrix; None for unquantized."""

SLAB_ROWS = 4096
"""Rows worked on at once, so that an output matrix of 150,000 rows needs no copies of itself."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight matrix ``(out, in)`` as MatMulNBits reads it."""

    bits: Literal[4, 8]
    packed: NDArray[np.uint8]
    """``(out, blocks, bytes)``, two values a byte in 4 bits, the earlier one in the low half."""
    scales: NDArray[np.float32]
    """``(out, blocks)``."""
    zero_points: NDArray[np.uint8] | None
    """``(out, blocks / 2)``, packed like the values; in 8 bits it is 128 and left out."""


def quantize_weight(weight: NDArray[np.generic], bits: Literal[4, 8]) -> QuantizedWeight:
    """Round a matrix ``(out, in)`` to the nearest steps; rows are padded to whole blocks."""
    quantize = _quantize_4bit if bits == 4 else _quantize_8bit
    packed, scales, zero_points = zip(*(quantize(slab) for slab in _blocks(weight)), strict=True)
    return QuantizedWeight(
        bits=bits,
        packed=np.concatenate(packed),
        scales=np.concatenate(scales),
        zero_points=np.concatenate(zero_points) if bits == 4 else None,
    )


def _blocks(weight: NDArray[np.generic]) -> Iterator[NDArray[np.float32]]:
    """Yield slabs of rows as ``(rows, blocks, 32)``."""
    padding = -weight.shape[1] % BLOCK_LEN
    for start in range(0, len(weight), SLAB_ROWS):
        rows = weight[start : start + SLAB_ROWS].astype(np.float32)
        rows = np.pad(rows, ((0, 0), (0, padding)))
        yield rows.reshape(len(rows), -1, BLOCK_LEN)


Parts = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]


def _quantize_8bit(blocks: NDArray[np.float32]) -> Parts:
    scales = np.abs(blocks).max(axis=-1) / np.float32(127)
    steps = np.rint(blocks / _nonzero(scales)[..., None]) + 128
    return steps.astype(np.uint8), scales, np.empty((len(blocks), 0), np.uint8)


def _quantize_4bit(blocks: NDArray[np.float32]) -> Parts:
    low = np.minimum(blocks.min(axis=-1), 0)  # 0 stays 0, so that padding costs nothing
    high = np.maximum(blocks.max(axis=-1), 0)
    scales = (high - low) / np.float32(15)
    zero_points = np.rint(-low / _nonzero(scales))
    steps = np.rint(blocks / _nonzero(scales)[..., None]) + zero_points[..., None]
    steps = np.clip(steps, 0, 15)
    return (
        _pack_nibbles(steps.astype(np.uint8)),
        scales,
        _pack_nibbles(zero_points.astype(np.uint8)),
    )


def _nonzero(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Let blocks of zeros divide by 1."""
    return np.where(scales == 0, np.float32(1), scales)


def _pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put pairs of 4-bit values along the last axis into bytes; an odd one out gets a 0."""
    if values.shape[-1] % 2:
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
    return values[..., 0::2] | values[..., 1::2] << np.uint8(4)
