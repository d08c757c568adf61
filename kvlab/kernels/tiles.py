"""Device functions for what rows of keys and values share: queries, packed numbers, sparse numbers.

A tile of N slots is held in P planes: byte b of a row with P numbers in a byte holds the channels b * P to b * P + P - 1, and plane j is
the channels b * P + j of all W bytes. So nothing is interleaved: queries are read, and sums written, in the same order. Slots are the rows
of every product and query heads its columns, which are padded to GP.
"""
# ruff: noqa: RUF005 (Triton has no starred tuples)

import triton
import triton.language as tl


@triton.jit
def queries(q, row, P: tl.constexpr, W: tl.constexpr, D: tl.constexpr, G: tl.constexpr, GP: tl.constexpr):
    """P planes float32 [W, GP] of the G query heads that begin at `row`; zero outside."""
    g = tl.arange(0, GP)[None, :]
    planes = ()
    for j in tl.static_range(P):
        c = (tl.arange(0, W) * P + j)[:, None]
        planes = planes + (tl.load(q + (row + g) * D + c, mask=(g < G) & (c < D), other=0.0).to(tl.float32),)
    return planes


@triton.jit
def normalized(planes, P: tl.constexpr):
    """The planes divided by each head's largest magnitude, so that float16 holds them times any scale, and those magnitudes [GP]."""
    top = tl.max(tl.abs(planes[0]), 0)
    for j in tl.static_range(1, P):
        top = tl.maximum(top, tl.max(tl.abs(planes[j]), 0))
    top = tl.where(top == 0.0, 1.0, top)
    out = ()
    for j in tl.static_range(P):
        out = out + (planes[j] / top[None, :],)
    return out, top


@triton.jit
def listed_slots(pages, place, listed, PAGE: tl.constexpr):
    """The slots [N] at the places [N] of a list of `listed` pages; negative behind its end and in unused pages."""
    page = tl.load(pages + place // PAGE, mask=place // PAGE < listed, other=-1)
    return tl.where(page >= 0, page * PAGE + place % PAGE, -(2**30))


@triton.jit
def rows_of(data, row, live, WIDTH: tl.constexpr, W: tl.constexpr):
    """[N, W] of rows of WIDTH stored numbers; zero where there is none."""
    c = tl.arange(0, W)[None, :]
    at = data + row[:, None] * WIDTH + c
    if W == WIDTH:
        return tl.load(at, mask=live[:, None], other=0)
    else:
        return tl.load(at, mask=live[:, None] & (c < WIDTH), other=0)


@triton.jit
def code_plane(codes, field, j: tl.constexpr, BITS: tl.constexpr):
    """Plane j of packed bytes: float16 number * 2**(BITS * j - 24). Below 1024 the bits of an integer are those of a subnormal float16, so
    that nothing is shifted, converted or subtracted. `field`, 2**BITS - 1, comes at run time: as a constant it would be applied byte by byte.
    """
    if BITS == 8:
        return codes.to(tl.int16).to(tl.float16, bitcast=True)
    else:
        return (codes.to(tl.int16) & (field << (BITS * j)).to(tl.int16)).to(tl.float16, bitcast=True)


@triton.jit
def e4m3(data, CONVERTS: tl.constexpr):
    """e4m3 bytes as float16. A device that does not convert them moves sign, exponent and mantissa to their places: float16 / 256."""
    if CONVERTS:
        return data.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        wide = data.to(tl.int16)
        return (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def scales(scale, row, owner, live, OF: tl.constexpr):
    """One number for each row [N] float32: its own, that of its unit, or 1."""
    if OF == "row":
        return tl.load(scale + row, mask=live, other=0.0).to(tl.float32)
    elif OF == "unit":
        return tl.where(live, tl.load(scale + owner).to(tl.float32), 0.0)
    else:
        return tl.where(live, 1.0, 0.0)


@triton.jit
def product(rows, heads, acc, TURNED: tl.constexpr):
    """acc + rows [M, K] . heads [K, GP]. Turned, heads are the rows for the tensor cores: fewer instructions where a number fills a byte or more."""
    if TURNED:
        return acc + tl.trans(tl.dot(tl.trans(heads), tl.trans(rows), input_precision="ieee"))
    else:
        return tl.dot(rows, heads, acc, input_precision="ieee")


@triton.jit
def first_places(bits, row, COUNT: tl.constexpr):
    """Where the values of each byte of a bitmap [N, W] begin in the packed values, COUNT for each row: int64 [N, W]."""
    held = bits.to(tl.int32)
    ones = held & 1
    for j in tl.static_range(1, 8):
        ones += (held >> j) & 1
    return row[:, None] * COUNT + (tl.cumsum(ones, 1) - ones)


@triton.jit
def sparse_plane(data, bits, places, j: tl.constexpr):
    """Plane j [N, W] of a bitmap's rows, and the places of plane j + 1."""
    bit = (bits.to(tl.int32) >> j) & 1
    return tl.load(data + places, mask=bit != 0, other=0.0), places + bit
