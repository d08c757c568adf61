"""Device functions: the sums of one tile of values weighted by p [N, GP], added to P planes [W, GP] float32, by the way the values are held.

A scale of a row goes into p. Divided by the largest scale of the tile first, p stays in the range of float16; the sum is multiplied back.
"""
# ruff: noqa: RUF005 (Triton has no starred tuples)

import triton
import triton.language as tl

from kvlab.kernels.tiles import code_plane, e4m3, first_places, product, rows_of, scales, sparse_plane


@triton.jit
def raw_sums(acc, p, data, row, live, W: tl.constexpr, D: tl.constexpr):
    """p . v"""
    values = rows_of(data, row, live, D, W)
    return (product(tl.trans(values), p.to(values.dtype), acc[0], True),)


@triton.jit
def scaled(p, by):
    """p * by / the largest of `by` in float16, and that largest."""
    top = tl.max(tl.abs(by), 0)
    top = tl.where(top == 0.0, 1.0, top)
    return (p * (by / top)[:, None]).to(tl.float16), top


@triton.jit
def float8_sums(acc, p, data, scale, row, owner, live, OF: tl.constexpr, CONVERTS: tl.constexpr, W: tl.constexpr, D: tl.constexpr):
    """p * scale . value"""
    values = e4m3(rows_of(data, row, live, D, W), CONVERTS)
    weights, top = scaled(p, scales(scale, row, owner, live, OF))
    return (acc[0] + product(tl.trans(values), weights, 0.0, True) * (top * (1.0 if CONVERTS else 256.0)),)


@triton.jit
def token_sums(acc, p, data, scale, low, row, live, field, BITS: tl.constexpr, P: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr):
    """p * scale . code + sum(p low): one scale and low for each row."""
    codes = rows_of(data, row, live, WIDTH, W)
    weights, top = scaled(p, tl.load(scale + row, mask=live, other=0.0).to(tl.float32))
    off = tl.sum(p * tl.load(low + row, mask=live, other=0.0).to(tl.float32)[:, None], 0)
    out = ()
    for j in tl.static_range(P):
        sums = product(tl.trans(code_plane(codes, field, j, BITS)), weights, tl.zeros_like(acc[j]), BITS == 8)
        out = out + (acc[j] + sums * (top * 2.0 ** (24 - BITS * j)) + off[None, :],)
    return out


@triton.jit
def spread(x, W: tl.constexpr):
    """One number for each group of channels, [N, groups], as one for each byte, [N, W]."""
    wide = tl.broadcast_to(x[:, :, None], [x.shape[0], x.shape[1], W // x.shape[1]])
    return tl.reshape(wide, [x.shape[0], W])


@triton.jit
def group_sums(
    acc, p, data, scale, low, row, live, field,
    BITS: tl.constexpr, P: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """p . (code * scale + low) with GROUPS (padded to WIDE) scales and lows for each row: one multiplication per value cannot be saved."""
    codes = rows_of(data, row, live, WIDTH, W)
    by = rows_of(scale, row, live, GROUPS, WIDE).to(tl.float32)
    off = rows_of(low, row, live, GROUPS, WIDE).to(tl.float32)
    top = tl.max(tl.max(tl.abs(off) + by * (2**BITS - 1), 1), 0)
    top = tl.where(top == 0.0, 1.0, top)
    by, off, weights = by / top, spread((off / top).to(tl.float16), W), p.to(tl.float16)
    out = ()
    for j in tl.static_range(P):
        numbers = code_plane(codes, field, j, BITS) * 16384.0
        values = numbers * spread((by * 2.0 ** (10 - BITS * j)).to(tl.float16), W) + off
        out = out + (product(tl.trans(values), weights, tl.zeros_like(acc[j]), BITS == 8) * top + acc[j],)
    return out


@triton.jit
def sparse_sums(acc, p, data, bitmap, row, live, W: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr):
    """p . v, plane by plane of the bitmap."""
    bits = rows_of(bitmap, row, live, WIDTH, W)
    places = first_places(bits, row, COUNT)
    out = ()
    for j in tl.static_range(8):
        values, places = sparse_plane(data, bits, places, j)
        out = out + (product(tl.trans(values), p.to(values.dtype), acc[j], True),)
    return out


@triton.jit
def row_sums(
    acc, p, data, scale, row, owner, live, V: tl.constexpr, OF: tl.constexpr, CONVERTS: tl.constexpr, W: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Values without codes, as `V` says: eight-bit floats, sparse or raw."""
    if V == "float8":
        return float8_sums(acc, p, data, scale, row, owner, live, OF, CONVERTS, W, D)
    elif V == "sparse":
        return sparse_sums(acc, p, data, scale, row, live, W, WIDTH, COUNT)
    else:
        return raw_sums(acc, p, data, row, live, W, D)
