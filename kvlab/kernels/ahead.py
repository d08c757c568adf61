"""What a kernel becomes on a device that is not there: compiled for it, disassembled and counted.

Counts are static. They say how many instructions one thread issues in the main loop for each cached number of its share, not how long that takes.
"""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.disasm import get_sass

from kvlab.kernels.launch import spec
from kvlab.kernels.segments import Segment
from kvlab.kernels.split import split

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
NUMBERS = {"scaling": "fp32", "first_slice": "i32", "slices": "i32", "listed": "i32", "k_field": "i32", "v_field": "i32"}


@dataclass(frozen=True)
class Compiled:
    """PTX, SASS, shared memory in bytes, and the cached numbers (of keys and values) that one thread has in a tile."""

    ptx: str
    sass: str
    shared: int
    share: float

    def loop(self) -> list[str]:
        """Names of the instructions of the longest loop, in order."""
        lines = self.sass.splitlines()
        labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.fullmatch(r"LBB\d+:", line.strip())}
        jumps = [(labels.get(line.split()[-1].rstrip(";"), i), i) for i, line in enumerate(lines) if re.search(r"\bBRA\b", line)]
        start, end = max(jumps, key=lambda jump: jump[1] - jump[0])
        return [re.sub(r"^\S+\s+(@!?\w+ )?", "", line).split()[0].rstrip(";") for line in lines[start + 1 : end + 1] if line.strip().endswith(";")]

    def per_number(self) -> float:
        """Instructions of the loop for each cached number."""
        return len(self.loop()) / self.share

    def commonest(self, n: int = 8) -> list[tuple[str, int]]:
        return collections.Counter(self.loop()).most_common(n)

    def spills(self) -> int:
        """Reads and writes of local memory."""
        return len(re.findall(r"\b(?:LDL|STL)\b", self.sass))

    def tensor_core(self) -> set[str]:
        """Which matrix instructions there are: "wgmma", "mma"."""
        return {name for name, found in (("wgmma", "wgmma.mma_async"), ("mma", "mma.sync")) if found in self.ptx}

    def asynchronous(self) -> bool:
        """Whether tiles are fetched while earlier ones are worked on."""
        return "cp.async" in self.ptx


def compiled(q: Tensor, segment: Segment, capability: int, **override: int) -> Compiled:
    """The split kernel as `launch.attend` would run it for this `q` [U, G, D], for a device of compute `capability` such as 90."""
    tensors, constants = spec(segment, q.shape[2], q.shape[1], len(q) // len(segment.lens), capability >= 89)
    constants |= override
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    pages = segment.lens if segment.pages is None else segment.pages
    given = [q, *tensors, segment.k_rows, segment.v_rows, segment.lens, segment.starts, pages] + [torch.empty(0)] * 3
    names = [name for name in split.arg_names if name not in constants and name not in NUMBERS]
    types = dict(zip(names, (TYPES[tensor.dtype] for tensor in given), strict=True)) | NUMBERS | dict.fromkeys(constants, "constexpr")
    types = {name: types[name] for name in split.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(types) if types[name].startswith("*")}
    made = triton.compile(ASTSource(split, types, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options)
    share = 2 * constants["N"] * q.shape[2] / (32 * options["num_warps"])
    return Compiled(made.asm["ptx"], get_sass(made.asm["cubin"]), made.metadata.shared, share)
