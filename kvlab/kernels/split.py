"""The kernel: one slice of one unit's slots, with an online softmax. It leaves unnormalised sums, the largest score and the sum of weights.

The grid is (units or lists of pages, slices). Scores are in powers of two. Weights are lifted by 2**14 under their largest one, so that
float16 holds small ones; the sum of weights is lifted alike.
"""
# ruff: noqa: RUF005 (Triton has no starred tuples)

import triton
import triton.language as tl

from kvlab.kernels.keys import group_scores, row_scores
from kvlab.kernels.tiles import listed_slots, normalized, queries
from kvlab.kernels.values import group_sums, row_sums, token_sums

LIFT = tl.constexpr(14.0)
LOWEST = tl.constexpr(-1e30)
"""In the place of minus infinity, whose difference with itself is no number."""


@triton.jit(do_not_specialize=["first_slice", "slices", "listed", "k_field", "v_field"])
def split(
    q, k_data, k_scale, k_low, v_data, v_scale, v_low, k_rows, v_rows, lens, starts, pages, acc_out, top_out, sum_out,
    scaling, first_slice, slices, listed, k_field, v_field,
    D: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr, SHARE: tl.constexpr,
    PAGE: tl.constexpr, CONVERTS: tl.constexpr,
    K: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, KW: tl.constexpr, K_WIDTH: tl.constexpr, K_COUNT: tl.constexpr, K_OF: tl.constexpr,
    V: tl.constexpr, VB: tl.constexpr, VP: tl.constexpr, VW: tl.constexpr, V_WIDTH: tl.constexpr, V_COUNT: tl.constexpr,
    V_WIDE: tl.constexpr, V_OF: tl.constexpr,
):  # fmt: skip
    """q [units, G, D] -> acc_out [all slices, units, G, D], top_out and sum_out [all slices, units, G] float32, of which this launch
    writes `slices` from `first_slice` on. `listed`: pages of a list. The rest is in `kvlab.kernels.launch.spec`.
    """
    unit, part = tl.program_id(0), tl.program_id(1)
    owner = unit // SHARE
    length, k_first, v_first = tl.load(lens + owner), tl.load(k_rows + owner), tl.load(v_rows + owner)
    shift = 0  # a segment may begin inside a group of keys; tiles begin with groups
    if K == "groups":
        shift = (k_first % N).to(tl.int32)
    ends = listed * PAGE if PAGE else length + shift
    tiles = tl.where(length > 0, tl.cdiv(ends, N), 0)
    each = tl.cdiv(tiles, slices)
    planes = queries(q, unit * G, KP, KW, D, G, GP)
    factor = tl.full([GP], 1.0, tl.float32) * scaling
    if K == "groups" or K == "float8":
        planes, size = normalized(planes, KP)
        factor = factor * size
    top, total, acc = tl.full([GP], LOWEST, tl.float32), tl.zeros([GP], tl.float32), ()
    for _ in tl.static_range(VP):
        acc = acc + (tl.zeros([VW, GP], tl.float32),)
    for tile in tl.range(part * each, tl.minimum(part * each + each, tiles), num_stages=STAGES):
        slot = tile * N - shift + tl.arange(0, N)
        if PAGE:
            slot = listed_slots(pages + unit * listed, slot, listed, PAGE) - tl.load(starts + owner)
        live = (slot >= 0) & (slot < length)
        if K == "groups":
            scores = group_scores(planes, k_data, k_scale, k_low, k_first // N + tile, k_first + slot, live, k_field, KB, KP, KW, D, K_WIDTH)
        else:
            scores = row_scores(planes, k_data, k_scale, k_first + slot, owner, live, K, K_OF, CONVERTS, KW, D, K_WIDTH, K_COUNT)
        scores = tl.where(live[:, None], scores * factor[None, :], LOWEST)
        highest = tl.maximum(top, tl.max(scores, 0))
        p = tl.where(live[:, None], tl.exp2(scores - highest[None, :] + LIFT), 0.0)
        fade = tl.exp2(top - highest)
        top, total, faded = highest, total * fade + tl.sum(p, 0), ()
        for j in tl.static_range(VP):
            faded = faded + (acc[j] * fade[None, :],)
        v_row = v_first + slot
        if V == "tokens":
            acc = token_sums(faded, p, v_data, v_scale, v_low, v_row, live, v_field, VB, VP, VW, V_WIDTH)
        elif V == "groups":
            acc = group_sums(faded, p, v_data, v_scale, v_low, v_row, live, v_field, VB, VP, VW, V_WIDTH, V_COUNT, V_WIDE)
        else:
            acc = row_sums(faded, p, v_data, v_scale, v_row, owner, live, V, V_OF, CONVERTS, VW, D, V_WIDTH, V_COUNT)
    leave(acc_out, top_out, sum_out, acc, top, total, (first_slice + part) * tl.num_programs(0) + unit, D, G, GP, VP, VW)


@triton.jit
def leave(
    acc_out, top_out, sum_out, acc, top, total, row, D: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, P: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """Write what one program found for the G query heads of its unit to row `row` of all slices and units."""
    g = tl.arange(0, GP)
    at = row.to(tl.int64) * G + g
    tl.store(top_out + at, top, mask=g < G)
    tl.store(sum_out + at, total, mask=g < G)
    for j in tl.static_range(P):
        c = (tl.arange(0, W) * P + j)[:, None]
        tl.store(acc_out + at[None, :] * D + c, acc[j], mask=(g < G)[None, :] & (c < D))


@triton.jit(do_not_specialize=["slices", "heads"])
def merge(acc, top, total, out, slices, heads, D: tl.constexpr, W: tl.constexpr):
    """All slices of one query head into its row of `out` [heads, D]: zero where no slice had a slot."""
    head = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, W)
    highest, weight, sums = tl.full([1], LOWEST, tl.float32), tl.zeros([1], tl.float32), tl.zeros([W], tl.float32)
    for i in tl.range(0, slices):
        here = tl.load(top + i * heads + head)
        new = tl.maximum(highest, here)
        old, fresh = tl.exp2(highest - new), tl.exp2(here - new)
        weight = weight * old + tl.load(total + i * heads + head) * fresh
        sums = sums * old + tl.load(acc + (i * heads + head) * D + c, mask=c < D, other=0.0) * fresh
        highest = new
    tl.store(out + head * D + c, sums / tl.where(weight == 0.0, 1.0, weight), mask=c < D)
