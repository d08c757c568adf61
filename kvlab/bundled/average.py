"""`python -m kvlab.bundled.average A B`: the mean of two model folders' weights.

Two models that were trained onward from the same weights often keep, in the mean of their weights, what each of them can do (Wortsman et al., Model
soups, arXiv 2203.05482). The third part of training learned the tasks' forms and lost some of the second part's sharpness; the mean has both.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def mean(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """`share` of the second and the rest of the first, tensor by tensor, summed in float32. Raises ValueError if they are not two models of one shape."""
    if {k: t.shape for k, t in first.items()} != {k: t.shape for k, t in second.items()}:
        raise ValueError("The two folders hold models of different shapes: only models trained onward from the same weights can be averaged.")
    return {name: ((1 - share) * first[name].float() + share * t.float()).to(t.dtype) for name, t in second.items()}


def main(argv: list[str]) -> int:
    """Writes the second folder with the mean weights to --out."""
    parser = argparse.ArgumentParser(prog="kvlab.bundled.average", description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--out", type=Path, default=Path("data/model"))
    args = parser.parse_args(argv)
    weights = mean(load_file(args.first / "model.safetensors"), load_file(args.second / "model.safetensors"), args.share)
    shutil.copytree(args.second, args.out, dirs_exist_ok=True)
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
