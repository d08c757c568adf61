"""Packed codes, bitmaps and missing channels against plain loops, and columns that hold them through any order of work."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kvlab.codecs import affine, bitmap
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap, largest
from kvlab.codecs.channels import Channels
from kvlab.codecs.pack import pack, packed_size, unpack
from kvlab.rows import Rows, storage_bytes
from kvlab.store import Store

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def gauss(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_pack(row: list[int], bits: int) -> list[int]:
    """One number after the other into a long bit string, lowest bit first, cut into bytes."""
    string = [(number >> i) & 1 for number in row for i in range(bits)]
    string += [0] * (-len(string) % 8)
    return [sum(bit << i for i, bit in enumerate(string[at : at + 8])) for at in range(0, len(string), 8)]


def plain_group(x: np.ndarray, bits: int, held: torch.dtype) -> np.ndarray:
    """One group [n] of float32 through codes and back, number by number, with scale and low rounded to `held`."""
    rounded = lambda number: np.float32(torch.tensor(float(number)).to(held).float().item())  # noqa: E731
    levels = 2**bits - 1
    scale, low = rounded((x.max() - x.min()) / np.float32(levels)), rounded(x.min())
    out = []
    for value in x:
        code = 0 if scale == 0 else min(levels, max(0, round(float((value - low) / scale))))
        out.append(np.float32(code) * scale + low)
    return np.array(out, np.float32)


# the packer


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 31, 33])
def test_packing_equals_a_bit_string_and_comes_back(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (2, 5, count), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (2, 5, packed_size(count, bits))
    assert packed.tolist() == [[plain_pack(row, bits) for row in block] for block in codes.tolist()]
    assert torch.equal(unpack(packed, bits, count), codes)


def test_the_first_number_lies_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([0, 1, 2, 3], dtype=torch.uint8), 2).tolist() == [0xE4]


def test_three_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        pack(torch.zeros(8, dtype=torch.uint8), 3)


# min-max groups


def test_the_small_example() -> None:
    codes, scale, low = affine.quantize(torch.tensor([0, 1, 2, 3.3]), 0, 2)
    assert codes.tolist() == [0, 1, 2, 3] and scale.dtype == low.dtype == torch.float16
    assert torch.allclose(codes * scale.float() + low.float(), torch.tensor([0, 1.1, 2.2, 3.3]), atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "width", "group"), [(4, 5, 4), (24, 7, 8), (64, 16, 32)])
def test_groups_of_tokens_equal_the_plain_loop(dtype: torch.dtype, bits: int, rows: int, width: int, group: int) -> None:
    x = (gauss(rows, width) * 3 + 1).to(dtype)
    coded, held = TokenGroups.of(x, bits, group), torch.float16 if dtype == torch.float32 else dtype
    want = np.empty((rows, width), np.float32)
    for start in range(0, rows, group):
        for channel in range(width):
            want[start : start + group, channel] = plain_group(x[start : start + group, channel].float().numpy(), bits, held)
    assert coded.decode().dtype == dtype
    assert torch.allclose(coded.decode().float(), torch.from_numpy(want).to(dtype).float(), rtol=1e-6, atol=1e-6)
    assert storage_bytes(coded.tensors()) == rows * packed_size(width, bits) + 2 * 2 * width * (rows // group)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "width", "group"), [(1, 8, 8), (13, 24, 8), (5, 6, 3)])
def test_groups_of_channels_equal_the_plain_loop(dtype: torch.dtype, bits: int, rows: int, width: int, group: int) -> None:
    x = (gauss(rows, width, seed=2) * 3 - 1).to(dtype)
    coded, held = ChannelGroups.of(x, bits, group), torch.float16 if dtype == torch.float32 else dtype
    want = np.stack([np.concatenate([plain_group(part, bits, held) for part in row.reshape(-1, group)]) for row in x.float().numpy()])
    assert torch.allclose(coded.decode().float(), torch.from_numpy(want).to(dtype).float(), rtol=1e-6, atol=1e-6)
    assert storage_bytes(coded.tensors()) == rows * (packed_size(width, bits) + 2 * 2 * (width // group))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_is_half_a_step_and_what_rounding_adds(dtype: torch.dtype, bits: int) -> None:
    x = (gauss(96, 16, seed=3) * 5).to(dtype)
    coded = TokenGroups.of(x, bits, 32)
    # scale, low and the result are each rounded once: half a unit in the last place of 16 bits, relative to their size
    unit = torch.finfo(torch.bfloat16 if dtype == torch.bfloat16 else torch.float16).eps / 2
    scale, low = coded.scale.float()[coded.owners()], coded.low.float()[coded.owners()]
    span = scale * (2**bits - 1)
    bound = scale / 2 + unit * (span + low.abs()) * 1.01 + unit * x.float().abs().clamp(min=1) * 1.01
    assert ((coded.decode().float() - x.float()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_group_of_equal_values_is_exact(dtype: torch.dtype) -> None:
    x = torch.tensor([50.0, 0.1, 0.0, -3.7]).to(dtype).expand(8, 4).contiguous()
    want = x if dtype != torch.float32 else x.half().float()
    assert torch.equal(TokenGroups.of(x, 2, 8).decode(), want)
    assert torch.equal(ChannelGroups.of(x.T.contiguous(), 2, 8).decode(), want.T)


def test_what_does_not_fill_its_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="13 rows cannot be split into groups of 8"):
        TokenGroups.of(gauss(13, 4), 2, 8)
    with pytest.raises(ValueError, match="12 channels cannot be split into groups of 8"):
        ChannelGroups.of(gauss(4, 12), 2, 8)


# bitmaps and channels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "count"), [(1, 1, 1), (3, 7, 2), (5, 13, 13), (9, 16, 5), (2, 128, 40)])
def test_a_bitmap_gives_back_exactly_the_largest(dtype: torch.dtype, rows: int, width: int, count: int) -> None:
    x = gauss(rows, width, seed=4).to(dtype)
    coded = Bitmap.of(x, largest(x, count))
    want = torch.zeros_like(x)
    for row, values in enumerate(x.tolist()):
        for channel in sorted(range(width), key=lambda c: (-abs(values[c]), c))[:count]:
            want[row, channel] = x[row, channel]
    assert torch.equal(coded.decode(), want)
    assert coded.bitmap.tolist() == [plain_pack([int(v != 0) for v in row], 1) for row in want.tolist()]
    assert storage_bytes(coded.tensors()) == rows * (count * dtype.itemsize + packed_size(width, 1))


def test_of_equal_magnitudes_the_lower_channel_stays() -> None:
    assert largest(torch.tensor([[1.0, -2, 2, 1, -2]]), 2).tolist() == [[False, True, True, False, False]]


def test_a_row_of_zeros_keeps_zeros() -> None:
    x = torch.zeros(2, 9)
    assert torch.equal(Bitmap.of(x, largest(x, 4)).decode(), x)


def test_a_bitmap_of_uneven_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        Bitmap.of(torch.ones(2, 3), torch.tensor([[True, False, False], [True, True, False]]))


@pytest.mark.parametrize("lens", [[[3, 3], [3, 3]], [[1, 4], [0, 2]]])
def test_channels_are_gone_from_memory_and_read_as_zero(lens: list[list[int]]) -> None:
    lens = torch.tensor(lens)
    rows, table = gauss(int(lens.sum()), 6), torch.tensor([[0, 2, 5], [1, 2, 3], [0, 1, 2], [3, 4, 5]], dtype=torch.int16)
    coded, want, at = Channels.of(rows, lens, table), torch.zeros_like(rows), 0
    for head, n in enumerate(lens.flatten().tolist()):
        for channel in table[head].tolist():
            want[at : at + n, channel] = rows[at : at + n, channel]
        at += n
    assert torch.equal(coded.decode(), want)
    uneven = 0 if lens.min() == lens.max() else 4 * 4
    assert storage_bytes(coded.tensors()) == len(rows) * 3 * 4 + 4 * 3 * 2 + uneven


# dropping and joining


def coders() -> dict[str, Callable[[Tensor], Rows]]:
    table = torch.tensor([[0, 3, 4], [1, 2, 7]], dtype=torch.int16)
    return {
        "tokens": lambda rows: TokenGroups.of(rows, 4, 4),
        "channels in groups": lambda rows: ChannelGroups.of(rows, 2, 4),
        "bitmap": lambda rows: Bitmap.of(rows, largest(rows, 3)),
        "channels": lambda rows: Channels.of(rows, torch.full((1, 2), len(rows) // 2), table),
    }


@pytest.mark.parametrize("name", coders())
def test_dropping_gathers_what_is_stored_and_never_decodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coded = coders()[name](gauss(24, 8))
    kept, want = [coded], [coded.decode()]
    masks = [torch.rand(24, generator=torch.Generator().manual_seed(24)) < 0.6]
    with monkeypatch.context() as patch:
        for module in (affine, bitmap):
            patch.setattr(module, "unpack", None)
        patch.setattr(type(coded), "decode", None)
        for _ in range(4):
            kept.append(kept[-1].keep(masks[-1]))
            masks.append(torch.rand(int(masks[-1].sum()), generator=torch.Generator().manual_seed(len(masks))) < 0.7)
    for rows, mask in zip(kept[1:], masks, strict=False):
        want.append(want[-1][mask])
        assert torch.equal(rows.decode(), want[-1])
    assert storage_bytes(kept[-1].tensors()) < storage_bytes(coded.tensors())
    assert torch.equal(coded.decode(), want[0])


@pytest.mark.parametrize("name", coders())
@pytest.mark.parametrize("whole", [True, False])
def test_joining_is_putting_rows_in_order(name: str, whole: bool) -> None:
    first, second = coders()[name](gauss(16, 8)), coders()[name](gauss(8, 8, seed=9))
    mask = torch.arange(16) % 3 > 0
    if not whole:
        first = first.keep(mask)
    n = len(first.decode())
    cut = 8 if whole else int(mask[:8].sum())
    # two heads: the first's own rows, then 4 new ones for it, and the same for the second
    index = torch.tensor([*range(cut), *range(n, n + 4), *range(cut, n), *range(n + 4, n + 8)])
    assert torch.equal(first.join(second, index).decode(), torch.cat([first.decode(), second.decode()])[index])


def test_groups_cost_bytes_only_while_a_token_of_them_is_left() -> None:
    coded = TokenGroups.of(gauss(32, 8), 2, 8)
    whole = coded.keep(torch.arange(32) // 8 != 1)
    assert whole.counts is None and storage_bytes(whole.tensors()) == 24 * 2 + 3 * 8 * 4
    broken = coded.keep((torch.arange(32) > 20) & (torch.arange(32) != 25))
    assert broken.counts.tolist() == [3, 7] and storage_bytes(broken.tensors()) == 10 * 2 + 2 * 8 * 4 + 2


def test_codes_of_another_kind_are_not_joined() -> None:
    x, index = gauss(8, 8), torch.arange(16)
    assert TokenGroups.of(x, 2, 8).join(TokenGroups.of(x, 4, 8), index) is None
    assert ChannelGroups.of(x, 2, 8).join(ChannelGroups.of(x, 2, 4), index) is None
    assert Bitmap.of(x, largest(x, 2)).join(Bitmap.of(x, largest(x, 3)), index) is None
    one = torch.zeros(1, 2, dtype=torch.int16)
    assert Channels.of(x, torch.tensor([[8]]), one).join(Channels.of(x, torch.tensor([[8]]), one + 1), index) is None


# columns that hold them


class Plain:
    """Rows of every (b, h) in lists; coded ones are held as what they decode to."""

    def __init__(self, batch: int, heads: int) -> None:
        self.rows = {(b, h): [] for b in range(batch) for h in range(heads)}
        self.coded = dict.fromkeys(self.rows, 0)

    def code(self, counts: Tensor, through: Callable[[Tensor], Tensor]) -> None:
        for (b, h), rows in self.rows.items():
            start, n = self.coded[b, h], int(counts[b, h])
            if n:
                rows[start : start + n] = list(through(torch.stack(rows[start : start + n])))
            self.coded[b, h] += n

    def keep(self, mask: Tensor) -> None:
        for (b, h), rows in self.rows.items():
            stays = mask[b, h, : len(rows)].tolist()
            self.coded[b, h] = sum(stays[: self.coded[b, h]])
            self.rows[b, h] = [row for row, stay in zip(rows, stays, strict=True) if stay]


@pytest.mark.parametrize("seed", range(6))
def test_a_store_through_any_order_of_work(seed: int) -> None:
    dice, batch, heads, width = random.Random(seed), 2, 3, 8
    store, keys, values, seen = Store(), Plain(batch, heads), Plain(batch, heads), 0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(30):
        kind = "append" if seen == 0 or len(store) < 6 else dice.choice(["append", "append", "code", "keep"])
        before = store.snapshot()
        frozen = [tensor.clone() for tensor in before.tensors()]
        if kind == "append":
            n = dice.choice([1, 1, 3, 17])
            k, v = torch.randn(2, batch, heads, n, width, generator=generator)
            store.append(k, v, torch.arange(seen, seen + n, dtype=torch.int32).expand(batch, -1))
            seen += n
            for b, h in keys.rows:
                keys.rows[b, h] += list(k[b, h])
                values.rows[b, h] += list(v[b, h])
        elif kind == "code":
            due = store.raw_lens("k") // 4 * 4
            store.code("k", due, lambda rows, lens: TokenGroups.of(rows, 2, 4))
            keys.code(due, lambda rows: TokenGroups.of(rows, 2, 4).decode())
            due = (store.raw_lens("v") - 2).clamp(min=0)
            store.code("v", due, lambda rows, lens: Bitmap.of(rows, largest(rows, 3)))
            values.code(due, lambda rows: Bitmap.of(rows, largest(rows, 3)).decode())
        else:
            newest = store.pos() == seen - 1  # something always stays
            mask = store.valid() & (newest | (torch.rand(batch, heads, len(store), generator=generator) < dice.choice([0.5, 0.9])))
            store.keep(mask)
            keys.keep(mask)
            values.keep(mask)
        view, lens = store.view(), store.lens()
        for (b, h), rows in keys.rows.items():
            assert int(lens[b, h]) == len(rows) == len(values.rows[b, h])
            assert torch.equal(view.k[b, h, : len(rows)], torch.stack(rows))
            assert torch.equal(view.v[b, h, : len(rows)], torch.stack(values.rows[b, h]))
            assert int(store.raw_lens("k")[b, h]) == len(rows) - keys.coded[b, h]
        assert all(sum(part.coded for part in store.columns[name].parts) <= 1 for name in "kv")
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(before.tensors(), frozen, strict=True))
