"""Compile the kernels that some problems launch, for a GPU that need not be there: one line each with what it takes.

    python compile_triton.py SM_VERSION WIDE_FROM

To be run alone, without Triton's interpreter. Tensors are on the CPU; nothing is started.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget

from dlka_med.ops.backends import triton_gpu
from dlka_med.ops.geometry import Geometry

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WEIGHTS = {"depthwise": (64, 64), "dense": (64, 1), "grouped": (48, 4), "few": (3, 1), "none": None}


class Target:
    """A device of which only the kind is known."""

    def __init__(self, version):
        self.version = version

    def get_current_target(self):
        return GPUTarget("cuda", self.version, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def resources(kernel):
    """Registers and bytes of stack per thread, and bytes of shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
        said = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()
    return {"registers": int(registers), "stack": int(stack), "shared": kernel.metadata.shared}


def compile_all(dtype, dims, name, report):
    """All kernels of the forward and backward pass of one problem, offsets and mask of float32."""
    outputs, groups = WEIGHTS[name] or (64, 1)
    geometry = Geometry.of(dims, 3, padding=1, groups=groups, offset_groups=1 if name == "dense" else 2)
    x = torch.zeros(1, *[16] * dims, 64, dtype=dtype)
    points = geometry.offset_groups * geometry.points
    offset, mask = (torch.zeros(1, points * entries, *[16] * dims) for entries in (dims, 1))
    weight = torch.zeros(outputs, 64 // groups, *geometry.kernel_size, dtype=dtype) if WEIGHTS[name] else None
    problem = triton_gpu.Problem(x, offset, weight, mask if name != "none" else None, geometry)
    run = triton.JITFunction.run

    def only_compile(self, *arguments, **settings):
        kernel = run(self, *arguments, **(settings | {"warmup": True}))
        report({"kernel": self.__name__, "problem": f"{dims}d {name} {dtype}"} | resources(kernel))

    triton.JITFunction.run = only_compile
    try:
        y = problem.forward(torch.zeros(outputs, dtype=dtype))
        problem.gradients(y, [True, True, weight is not None, problem.mask is not None])
    finally:
        triton.JITFunction.run = run


def main():
    triton.runtime.driver.set_active(Target(int(sys.argv[1])))
    triton_gpu.WIDE_FROM = int(sys.argv[2])
    names = sys.argv[3:] or list(WEIGHTS)
    for dtype in DTYPES if len(names) > 1 else DTYPES[:1]:
        for dims in (2, 3):
            for name in names:
                compile_all(dtype, dims, name, lambda found: sys.stdout.write(json.dumps(found) + "\n"))


if __name__ == "__main__":
    main()
