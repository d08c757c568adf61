"""Device functions: scores of one tile of keys, [N, GP] float32, by the way the keys are held."""

import triton
import triton.language as tl

from kvlab.kernels.tiles import code_plane, e4m3, first_places, product, rows_of, scales, sparse_plane


@triton.jit
def raw_scores(planes, data, row, live, W: tl.constexpr, D: tl.constexpr):
    """q . k"""
    keys = rows_of(data, row, live, D, W)
    return product(keys, planes[0].to(keys.dtype), 0.0, True)


@triton.jit
def float8_scores(planes, data, scale, row, owner, live, OF: tl.constexpr, CONVERTS: tl.constexpr, W: tl.constexpr, D: tl.constexpr):
    """q . value, then times the scale of the row."""
    values = e4m3(rows_of(data, row, live, D, W), CONVERTS)
    by = scales(scale, row, owner, live, OF) * (1.0 if CONVERTS else 256.0)
    return product(values, planes[0].to(tl.float16), 0.0, True) * by[:, None]


@triton.jit
def group_scores(
    planes, data, scale, low, group, row, live, field, BITS: tl.constexpr, P: tl.constexpr, W: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    """q . (code * scale + low) for one group: the scale is multiplied into the query, low is one number for each query head."""
    codes = rows_of(data, row, live, WIDTH, W)
    scores = tl.zeros([row.shape[0], planes[0].shape[1]], tl.float32)
    rest = tl.zeros([W, planes[0].shape[1]], tl.float32)
    for j in tl.static_range(P):
        c = tl.arange(0, W) * P + j
        by = tl.load(scale + group * D + c, mask=c < D, other=0.0).to(tl.float32) * 2.0 ** (-BITS * j)
        off = tl.load(low + group * D + c, mask=c < D, other=0.0).to(tl.float32)
        scaled = (planes[j] * by[:, None]).to(tl.float16)
        scores = product(code_plane(codes, field, j, BITS), scaled, scores, BITS == 8)
        rest += planes[j] * off[:, None]
    return scores * 2.0**24 + tl.sum(rest, 0)[None, :]


@triton.jit
def sparse_scores(planes, data, bitmap, row, live, W: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr):
    """q . k, plane by plane of the bitmap."""
    bits = rows_of(bitmap, row, live, WIDTH, W)
    places = first_places(bits, row, COUNT)
    scores = tl.zeros([row.shape[0], planes[0].shape[1]], tl.float32)
    for j in tl.static_range(8):
        keys, places = sparse_plane(data, bits, places, j)
        scores = product(keys, planes[j].to(keys.dtype), scores, True)
    return scores


@triton.jit
def row_scores(
    planes, data, scale, row, owner, live, K: tl.constexpr, OF: tl.constexpr, CONVERTS: tl.constexpr, W: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Keys of which each row is held by itself, as `K` says: eight-bit floats, sparse or raw."""
    if K == "float8":
        return float8_scores(planes, data, scale, row, owner, live, OF, CONVERTS, W, D)
    elif K == "sparse":
        return sparse_scores(planes, data, scale, row, live, W, WIDTH, COUNT)
    else:
        return raw_scores(planes, data, row, live, W, D)
