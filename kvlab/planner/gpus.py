"""GPUs that people plan for: memory, bandwidth and peak as their makers' data sheets give them. Every figure can be changed on the page."""

from __future__ import annotations

from typing import NamedTuple


class GPU(NamedTuple):
    """`memory` in GiB as sold, `bandwidth` in GB/s, `peak` in dense bfloat16 (of the T4 float16) TFLOP/s, without sparsity."""

    title: str
    memory: float
    bandwidth: float
    peak: float
    source: str


GPUS: dict[str, GPU] = {
    "t4": GPU("T4, 16 GB", 16, 320, 65, "NVIDIA T4 data sheet; float16"),
    "l4": GPU("L4, 24 GB", 24, 300, 121, "NVIDIA L4 data sheet, half of its figure with sparsity"),
    "rtx4090": GPU("RTX 4090, 24 GB", 24, 1008, 165.2, "NVIDIA Ada architecture paper, float32 sums"),
    "l40s": GPU("L40S, 48 GB", 48, 864, 362, "NVIDIA L40S data sheet"),
    "a100-40": GPU("A100 SXM, 40 GB", 40, 1555, 312, "NVIDIA A100 data sheet"),
    "a100-80": GPU("A100 SXM, 80 GB", 80, 2039, 312, "NVIDIA A100 data sheet"),
    "h100": GPU("H100 SXM, 80 GB", 80, 3350, 989.4, "NVIDIA H100 data sheet, half of its figure with sparsity"),
    "h200": GPU("H200 SXM, 141 GB", 141, 4800, 989.4, "NVIDIA H200 data sheet, half of its figure with sparsity"),
    "mi300x": GPU("MI300X, 192 GB", 192, 5300, 1307.4, "AMD MI300X data sheet"),
}
