"""How much of a problem each program of the CUDA backend takes, and how it multiplies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

PROGRAMS = 4 * 130  # several for each multiprocessor of a large device


@dataclass(frozen=True)
class Tile:
    """What a program holds at once: positions, channels, and outputs unless depthwise; and its number of warps."""

    positions: int
    channels: int
    outputs: int | None
    warps: int

    @classmethod
    def of(cls, layout: NamedTuple, outputs: int | None) -> Tile:
        """The tile of a problem; figures of registers are those of sm_90.

        Products of matrices have no side under 16. 64 x 64 sums over eight warps leave room for the corners of 32
        channels in 2D, of 16 in 3D, in about 128 registers: two programs share a multiprocessor.

        Depthwise, eight values per thread and the corners of them take 64 registers in 2D and 88 in 3D, so that many
        programs hide each other's gathers. A block has up to 64 channels, since lanes along channels repeat
        coordinates but read neighbouring memory; it has fewer positions where otherwise there were too few programs.
        """
        if outputs is not None:
            outputs = power_of_two(outputs, 16, 64)
            channels = power_of_two(min(layout.width, layout.depth), 16, 16 if len(layout.size) == 3 else 32)
            return cls(64, channels, outputs, 8 if outputs == 64 else 4)
        channels = power_of_two(layout.width, 1, 64)
        positions = min(1024 // channels, 128)
        while (
            positions * channels > 256 and parts(layout.total, positions) * parts(layout.channels, channels) < PROGRAMS
        ):
            positions //= 2
        return cls(positions, channels, None, max(positions * channels // 256, 1))

    def of_gradients(self) -> Tile:
        """The tile for gradients of x, offset and mask, which need more registers beside it."""
        if self.outputs is None:
            return replace(self, warps=2 * self.warps)
        return replace(self, positions=32, outputs=min(self.outputs, 32), warps=4)


def parts(number: int, size: int) -> int:
    """How many parts of `size` hold `number`."""
    return -(-number // size)


def power_of_two(number: int, least: int, most: int) -> int:
    """The least power of two that holds `number`, within bounds that are powers of two."""
    return min(max(1 << (number - 1).bit_length(), least), most)


def precision(dtype: torch.dtype) -> str:
    """How matrices are multiplied: in float32, unless PyTorch is told that less will do.

    Where x is of half precision, three products in TensorFloat-32 are as good as float32 before the sum is rounded.
    On ROCm float32 stays as it is: few devices there have TensorFloat-32.
    """
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    if tf32 and dtype != torch.float64 and torch.version.hip is None:
        return "tf32"
    return "tf32x3" if dtype.itemsize == 2 else "ieee"


def merged(groups: int, channels: int) -> int:
    """How many neighbouring groups of so many channels (or outputs) are convolved as one, to fill a tile of 32."""
    return max((n for n in range(1, groups + 1) if groups % n == 0 and n * channels <= 32), default=1)
