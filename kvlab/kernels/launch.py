"""The host's side: how a segment is told to the kernel, into how many slices it is cut, and the two launches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap
from kvlab.codecs.each import Each
from kvlab.kernels.segments import Segment
from kvlab.kernels.split import merge, split
from kvlab.rows import Rows

LEAST = 512
"""Slots below which a slice is not cut further."""
PER_CORE = 2
"""Programs that share one multiprocessor."""


def power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def held(rows: Rows, size: int) -> tuple[str, list[Tensor], dict[str, Any]]:
    """How rows of `size` channels are held: a name, the tensors data, scale and low, and B(its), P(lanes), W(idth, padded), WIDTH, COUNT, WIDE, OF."""
    if isinstance(rows, TokenGroups | ChannelGroups):
        planes, width = 8 // rows.bits, rows.codes.shape[1]
        numbers = {"B": rows.bits, "P": planes, "W": max(16, power(width)), "WIDTH": width, "COUNT": 1, "WIDE": 1, "OF": "row"}
        if isinstance(rows, TokenGroups):
            return "groups", [rows.codes, rows.scale, rows.low], numbers
        many = rows.scale.shape[1]
        numbers |= {"COUNT": many, "WIDE": power(many)}
        return "tokens" if many == 1 else "groups", [rows.codes, rows.scale, rows.low], numbers
    plain = {"B": 8, "P": 1, "W": max(16, power(size)), "WIDTH": size, "COUNT": 1, "WIDE": 1, "OF": "row"}
    if isinstance(rows, Bitmap):
        width = rows.bitmap.shape[1]
        return "sparse", [rows.values, rows.bitmap, rows.bitmap], plain | {"P": 8, "W": max(16, power(width)), "WIDTH": width, "COUNT": rows.values.shape[1]}
    if isinstance(rows, Each):
        scale, of = float8_scale(rows)
        return "float8", [rows.held[0], scale, scale], plain | {"OF": of}
    return "raw", [rows.data] * 3, plain


def float8_scale(rows: Each) -> tuple[Tensor, str]:
    """Where the scale of e4m3 rows is, and what it is one of: a row, a unit, or nothing."""
    if rows.tables:
        return rows.tables[0], "unit"
    return (rows.held[1], "row") if len(rows.held) > 1 else (rows.held[0], "nothing")


def spec(segment: Segment, size: int, group: int, share: int, converts: bool) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors of a segment and the constants its kernel is compiled for: `group` query heads of `size` channels for each unit."""
    keys, k_tensors, k = held(segment.k, size)
    values, v_tensors, v = held(segment.v, size)
    constants = {"D": size, "G": group, "GP": max(8, power(group)), "SHARE": share, "PAGE": segment.page, "K": keys, "V": values}
    constants |= {"KB": k["B"], "KP": k["P"], "KW": k["W"], "K_WIDTH": k["WIDTH"], "K_COUNT": k["COUNT"], "K_OF": k["OF"]}
    constants |= {"VB": v["B"], "VP": v["P"], "VW": v["W"], "V_WIDTH": v["WIDTH"], "V_COUNT": v["COUNT"], "V_WIDE": v["WIDE"], "V_OF": v["OF"]}
    constants |= {"CONVERTS": converts} | tile(segment, keys, values)
    return k_tensors + v_tensors, constants


def tile(segment: Segment, keys: str, values: str) -> dict[str, int]:
    """Slots of a tile, warps and stages of the pipeline. A plain table: a search would want the device."""
    if keys == "groups":
        slots = segment.k.group
    else:
        slots = 64 if {keys, values} & {"raw", "sparse"} else 128
    return {"N": slots, "STAGES": 3, "num_warps": 4 if slots >= 64 else 2, "num_stages": 3}


def slices(units: int, longest: int, cores: int, least: int = LEAST) -> int:
    """Into how many slices every unit is cut: the fewest that fill the device's waves to 85 % of the best count."""
    places, most = cores * PER_CORE, max(1, longest // least)
    full = [units * n / (math.ceil(units * n / places) * places) for n in range(1, min(most, places) + 1)]
    return next(n for n, share in enumerate(full, 1) if share >= 0.85 * max(full))


def cores(device: torch.device) -> int:
    """Multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def partials(count: int, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the sums, largest scores and sums of weights of `count` slices."""
    new = lambda *shape: torch.empty(count, *q.shape[:2], *shape, dtype=torch.float32, device=q.device)  # noqa: E731
    return new(q.shape[2]), new(), new()


def attend(q: Tensor, segments: list[Segment], scaling: float, cuts: list[int] | None = None) -> Tensor:
    """q [U, G, D] (or [L, G, D] for L lists of pages), contiguous -> the same shape and dtype. `cuts`: slices of each segment."""
    units, group, size = q.shape
    if cuts is None:
        cuts = [slices(units, segment.longest, cores(q.device)) for segment in segments]
    converts = q.is_cuda and torch.cuda.get_device_capability(q.device) >= (8, 9)  # e4m3 by an instruction
    out, (acc, top, total), first = torch.empty_like(q), partials(sum(cuts), q), 0
    for segment, count in zip(segments, cuts, strict=True):
        tensors, constants = spec(segment, size, group, units // len(segment.lens), converts)
        pages = segment.lens if segment.pages is None else segment.pages
        listed = 0 if segment.pages is None else pages.shape[1]
        split[units, count](
            q, *tensors, segment.k_rows, segment.v_rows, segment.lens, segment.starts, pages, acc, top, total,
            scaling * math.log2(math.e), first, count, listed, 2 ** constants["KB"] - 1, 2 ** constants["VB"] - 1, **constants,
        )  # fmt: skip
        first += count
    merge[(units * group,)](acc, top, total, out, sum(cuts), units * group, D=size, W=power(size), num_warps=1)
    return out
