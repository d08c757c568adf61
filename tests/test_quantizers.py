"""The quantizers beside KIVI: their primitives against plain loops, the small numbers of their cards, and what they hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny
from test_codecs import gauss, plain_pack
from test_quantization import feed, half
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.calibration import key
from kvlab.codecs import blockfloat, stream
from kvlab.codecs.account import side_bytes, true_bits
from kvlab.codecs.bitmap import largest
from kvlab.codecs.codebook import bucket, kmeans, nearest, normal_levels
from kvlab.codecs.each import Codec, Each, Whole
from kvlab.codecs.guessed import fit
from kvlab.codecs.higgs import Higgs, grid
from kvlab.codecs.joint import Joint
from kvlab.codecs.mixed import Mixed, split_lens
from kvlab.codecs.picture import Film, Picture, decode_grey, encode_grey
from kvlab.codecs.rotate import hadamard, orthogonal
from kvlab.codecs.tokens import MinMax, Rotated
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.codecs.uniform import integer_zero, symmetric
from kvlab.method import Method
from kvlab.methods.quantization.bfp import by_pairs
from kvlab.methods.quantization.cq import Coupled, learn
from kvlab.methods.quantization.fp8 import Float8
from kvlab.methods.quantization.gear import GEAR, extremes, low_rank
from kvlab.methods.quantization.kvquant import Levels, ends
from kvlab.methods.quantization.mikv import balancer
from kvlab.methods.quantization.ostquant import learn as learn_turns
from kvlab.methods.quantization.ostquant import of_keys, of_values, paired
from kvlab.methods.quantization.resq import Parts, basis
from kvlab.methods.quantization.rotatekv import Ordered, together
from kvlab.methods.quantization.turboquant import Product, Turbo
from kvlab.methods.quantization.vcllm import HEADERS
from kvlab.methods.quantization.zipcache import PerChannel, least
from kvlab.methods.sparsity.csr import Sparse as SparseCode
from kvlab.methods.sparsity.csr import pursue
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.rows import storage_bytes
from kvlab.session import Session

SHORT = {"passages": 2, "length": 40}
EVEN = torch.tensor([[1]])


class Artefact:
    """Stands in for a layer whose model was calibrated: index 0 of the tensors given."""

    def __init__(self, **tensors: Tensor) -> None:
        self.index, self.cache = 0, self
        self.artefact = {name.replace("_", " "): tensor[None] for name, tensor in tensors.items()}


def through(codec: Codec, rows: Tensor, heads: int = 1, tables: tuple[Tensor, ...] = ()) -> Tensor:
    """`rows` coded and back, as rows of `heads` heads of one text."""
    return Each.of(rows, torch.full((1, heads), len(rows) // heads), codec, rows.dtype, tables).decode()


def mse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


# primitives


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 8, 9, 12, 16])
@pytest.mark.parametrize("count", [1, 7, 8, 13])
def test_a_stream_equals_a_bit_string_and_comes_back(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (3, 2, count), generator=torch.Generator().manual_seed(bits))
    packed = stream.pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.tolist() == [[plain_pack(row, bits) for row in block] for block in codes.tolist()]
    assert torch.equal(stream.unpack(packed, bits, count), codes)


def test_codes_of_no_width_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 16 bits, not 17"):
        stream.pack(torch.zeros(4), 17)


@pytest.mark.parametrize("size", [1, 2, 16, 24, 80, 128])
def test_the_turn_is_the_matrix_by_its_definition_and_its_own_inverse(size: int) -> None:
    x, blocks = gauss(3, size), [2**bit for bit in reversed(range(8)) if size >> bit & 1]
    by_hand = [torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)]) / n**0.5 for n in blocks]
    assert torch.allclose(hadamard(x), x @ torch.block_diag(*by_hand), atol=1e-5)
    assert torch.allclose(hadamard(hadamard(x)), x, atol=1e-5)


def test_a_drawn_rotation_is_orthogonal_and_the_same_again() -> None:
    turn = orthogonal(24, 3)
    assert torch.allclose(turn @ turn.T, torch.eye(24), atol=1e-5) and torch.equal(turn, orthogonal(24, 3))
    assert not torch.equal(turn, orthogonal(24, 4))


def plain_zero(x: np.ndarray, bits: int, clip: float) -> np.ndarray:
    """One group with a rounded zero point, number by number, in float16 scales."""
    low, high = float(x.min()) * clip, float(x.max()) * clip
    if low == high:
        low, high = min(low, 0), max(high, 0)
    scale = float(np.float16(np.float32(high - low) / (2**bits - 1))) or 1.0
    zero = round(-low / scale)
    return np.array([scale * (min(2**bits - 1, max(0, round(float(np.float32(v) / np.float32(scale))) + zero)) - zero) for v in x], np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("clip", [1.0, 0.8])
def test_a_rounded_zero_point_equals_the_plain_loop(bits: int, clip: float) -> None:
    x = gauss(9, 13, seed=bits) * 2 + 0.3
    codes, scale, zero = integer_zero(x, bits, torch.float16, clip)
    want = np.stack([plain_zero(row, bits, clip) for row in x.numpy()])
    assert np.allclose((scale.float() * (codes - zero)).numpy(), want, atol=2e-3 * 2**-bits + 1e-5)
    assert codes.min() >= 0 and codes.max() < 2**bits


@pytest.mark.parametrize("value", [0.0, 3.5, -7.25])
def test_a_group_of_one_value_is_widened_to_hold_zero_and_exact(value: float) -> None:
    codes, scale, zero = integer_zero(torch.full((1, 6), value), 4, torch.float16)
    assert torch.allclose(scale.float() * (codes - zero), torch.full((1, 6), value), rtol=1e-3)
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_symmetric_codes_equal_the_plain_loop(bits: int) -> None:
    x = torch.cat([gauss(5, 7), torch.zeros(1, 7)])
    codes, scale = symmetric(x, bits, torch.float16)
    limit = 2 ** (bits - 1) - 1
    for row, mine, step in zip(x.tolist(), codes.tolist(), scale[:, 0].float().tolist(), strict=True):
        assert mine == [0 if step == 0 else max(-limit, min(limit, round(float(np.float32(v) / np.float32(step))))) for v in row]


def test_block_floats_of_the_card() -> None:
    mantissas, exponents = blockfloat.encode(torch.tensor([[1.0, 0.3, -2.9, 0.06]]), 4, 4)
    assert mantissas.tolist() == [[2, 1, -6, 0]] and exponents.tolist() == [[blockfloat.BIAS + 1]]
    assert blockfloat.decode(mantissas, exponents, 4).tolist() == [[1.0, 0.5, -3.0, 0.0]]
    assert blockfloat.decode(*blockfloat.encode(torch.zeros(1, 8), 4, 4), 4).tolist() == [[0.0] * 8]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_block_floats_equal_the_plain_loop(bits: int) -> None:
    x = gauss(4, 12) * torch.tensor([1e-3, 1, 50, 1e4])[:, None]
    mine = blockfloat.decode(*blockfloat.encode(x, bits, 4), bits)
    limit = 2 ** (bits - 1) - 1
    for row, got in zip(x.tolist(), mine.tolist(), strict=True):
        for start in range(0, 12, 4):
            step = 2.0 ** (math.floor(math.log2(max(abs(v) for v in row[start : start + 4]))) - bits + 2)
            assert got[start : start + 4] == [max(-limit, min(limit, round(v / step))) * step for v in row[start : start + 4]]


def test_the_nearest_entry_is_found_by_looking_at_all() -> None:
    x, book = gauss(2, 17, 3), gauss(2, 5, 3, seed=1)
    want = [[min(range(5), key=lambda k: float((v - entries[k]).square().sum())) for v in vectors] for vectors, entries in zip(x, book, strict=True)]
    assert nearest(x, book).tolist() == want
    levels = torch.tensor([-2.0, 0.0, 1.0])
    assert bucket(torch.tensor([-9.0, -0.9, 0.5, 0.6, 9.0]), levels).tolist() == [0, 1, 1, 2, 2]


def test_levels_for_normal_numbers_are_those_of_the_card() -> None:
    table = {1: [0.7979], 2: [0.4528, 1.5104], 3: [0.2451, 0.7560, 1.3439, 2.1519],
             4: [0.1284, 0.3880, 0.6568, 0.9423, 1.2562, 1.6180, 2.0690, 2.7326]}  # fmt: skip
    errors = {1: 0.3634, 2: 0.1175, 3: 0.0345, 4: 0.0095}
    x = gauss(200_000)
    for bits, half_levels in table.items():
        levels = normal_levels(bits)
        assert levels[len(half_levels) :].tolist() == pytest.approx(half_levels, abs=2e-4) and torch.allclose(levels, -levels.flip(0), atol=1e-5)
        assert mse(levels[bucket(x, levels)], x) == pytest.approx(errors[bits], rel=0.03)


def test_kmeans_finds_points_and_wakes_the_idle() -> None:
    points = torch.tensor([[0.0, 0], [9, 9], [0, 9], [9, 0]])
    x = points.repeat(30, 1)[None]
    book = kmeans(x, 4, 10)
    assert torch.equal(book[0][nearest(x, book)[0]], x[0])


# rows


def test_two_kinds_of_rows_drop_and_join_in_order() -> None:
    codec, lens = MinMax(4, 8), torch.tensor([[6, 6]])

    def make_rows(seed: int) -> tuple[Mixed, Tensor]:
        x, which = gauss(12, 8, seed=seed), torch.arange(12) % 3 == 0
        first = Each.of(x[which], split_lens(which, lens), Whole(4), x.dtype)
        return Mixed.of(which, first, Each.of(x[~which], split_lens(~which, lens), codec, x.dtype)), torch.where(which[:, None], x, through(codec, x))

    (one, want), (other, more) = make_rows(0), make_rows(1)
    assert torch.equal(one.decode(), want)
    mask = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)
    kept = one.keep(mask)
    assert torch.equal(kept.decode(), want[mask])
    index = torch.tensor([0, 1, 2, 3, *range(7, 13), 4, 5, 6, *range(13, 19)])
    assert torch.equal(kept.join(other, index).decode(), torch.cat([want[mask], more])[index])


@pytest.mark.parametrize("lens", [[[4, 4]], [[3, 3], [5, 5]], [[2, 4], [3, 1]]])
def test_heads_coded_together_drop_and_join_one_by_one(lens: list[list[int]]) -> None:
    lens = torch.tensor(lens)
    n, mask = int(lens.sum()), torch.rand(int(lens.sum()), generator=torch.Generator().manual_seed(5)) < 0.6
    one, other = (Joint.of(gauss(n, 8, seed=seed), lens, Whole(4), torch.float32) for seed in (0, 1))
    assert torch.equal(one.decode(), gauss(n, 8))
    kept = one.keep(mask)
    assert torch.equal(kept.decode(), gauss(n, 8)[mask])
    both = torch.cat([gauss(n, 8)[mask], gauss(n, 8, seed=1)])
    index = torch.randperm(len(both), generator=torch.Generator().manual_seed(2))
    assert torch.equal(kept.join(other, index).decode(), both[index])
    starts = lens.flatten().cumsum(0) - lens.flatten()
    spans = zip(starts.tolist(), lens.flatten().tolist(), strict=True)
    index = torch.tensor([base + i for start, count in spans for base in (0, n) for i in range(start, start + count)])
    whole = one.join(other, index)
    assert torch.equal(whole.decode(), torch.cat([gauss(n, 8), gauss(n, 8, seed=1)])[index])
    assert whole.order is None or bool((lens[:, 0] != lens[:, 1]).any())
    assert storage_bytes(one.keep(torch.zeros(n, dtype=torch.bool)).tensors()) == 0


# transforms alone


@dataclass(frozen=True)
class Still(BeforeRope):
    """Takes keys off their positions, turns and sorts them, and rounds nothing."""

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        order = Artefact(rotatekv_order=torch.randperm(32, generator=torch.Generator().manual_seed(0)))
        return {"k": Ordered(Whole(4), 32, order), "v": Rotated(Whole(4))}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transforms_alone_change_no_logits(groups: int) -> None:
    lm = tiny(groups, layers=2)
    assert (feed(lm, Still(), 40, 5)[1] - feed(lm, Method(), 40, 5)[1]).abs().max() < 1e-4


# what it costs


def test_two_bits_of_kivi_are_three() -> None:
    session = feed(half(tiny()), make("kivi", knobs={"bits": 2, "group": 16, "residual": 16}), 64)[0]
    layers = session.cache.layers
    values = 3 * 2 * 64 * 16  # of keys, all coded; of values 48 of 64 tokens are
    assert true_bits(session.cache) == (values * 4 + values * (48 * 4 + 16 * 16) / 64) / (2 * values)
    assert all(layer.store.raw_lens("k").sum() == 0 for layer in layers) and side_bytes(session.cache) == 0
    with pytest.raises(ValueError, match="Read a prompt first"):
        true_bits(Session(tiny(), make("kivi")).cache)


@pytest.mark.parametrize("name", ["rotatekv", "kvquant", "bfp", "cq", "resq", "ostquant", "csr", "aquakv"])
def test_when_tokens_are_coded_needs_no_new_calibration(name: str) -> None:
    later = "buffer" if name == "aquakv" else "window"
    usual, other, fewer = (make(name, knobs=knobs) for knobs in ({}, {later: 99}, {"passages": 3}))
    assert key(usual, tiny()) == key(other, tiny()) != key(fewer, tiny())


def test_codebooks_are_counted_apart() -> None:
    session = feed(tiny(), make("cq", knobs={"bits": 4, **SHORT}), 40)[0]
    assert side_bytes(session.cache) == 2 * 3 * 2 * 16 * 2**4 * 2  # keys and values, L * H * D, entries, 16 bits
    assert true_bits(session.cache) == 1


# FP8


def test_eight_bit_floats_are_as_near_as_their_mantissa() -> None:
    x = gauss(4, 500).abs() + 0.1
    for form, near in (("e4m3", 2**-4), ("e5m2", 2**-3)):
        assert ((through(Float8(form, "one"), x) - x).abs() / x).max() <= near
    grid = torch.tensor([[0.5, 1.75, -448.0, 0.0, 208.0]])
    assert torch.equal(through(Float8("e4m3", "one"), grid), grid)


def test_what_no_float8_holds_is_its_end_and_the_scale_stays() -> None:
    assert through(Float8("e4m3", "one"), torch.tensor([[1e6, -1e6]])).tolist() == [[448, -448]]
    assert through(Float8("e5m2", "one"), torch.tensor([[1e6, -1e6]])).tolist() == [[57344, -57344]]
    session, _ = feed(tiny(), make("fp8"), 40, 3)
    part = session.cache.layers[1].store.columns["k"].parts[0]
    keys = feed(tiny(), Method(), 40)[0].cache.layers[1].store.view().k
    assert torch.allclose(part.rows.tables[0], keys.abs().amax((2, 3)).flatten() / 448)


# QuaRot


def test_turning_helps_where_a_channel_stands_out() -> None:
    x = gauss(2000, 128)
    x[:, 17] *= 20
    turned, plain = mse(through(Rotated(MinMax(4, 128)), x), x), mse(through(MinMax(4, 128), x), x)
    assert turned == pytest.approx(0.021, rel=0.2) and plain == pytest.approx(0.16, rel=0.2)
    assert sum(t.nbytes for t in Each.of(x.half(), EVEN, MinMax(4, 128), torch.float16).tensors()) == 2000 * 68


# RotateKV


def test_rotatekv_turns_heads_in_the_largest_group_that_fits() -> None:
    assert [together(heads, 4) for heads in (8, 4, 6, 2, 5, 1)] == [4, 4, 3, 2, 1, 1]


def test_rotatekv_adds_the_bytes_of_the_card() -> None:
    codec = MinMax(2, 128, "integer", 0.8)
    assert 2 * codec.row_bytes(1024, 2) == 576


def test_rotatekv_sorts_channels_of_turned_keys() -> None:
    layer = feed(tiny(), make("rotatekv", knobs={"group": 8, **SHORT}), 40)[0].cache.layers[1]
    order = layer.cache.artefact["rotatekv order"]
    assert order.shape == (3, 32) and all(sorted(row) == list(range(32)) for row in order.tolist())


# BFP


@pytest.mark.parametrize(("block", "sorted_error", "plain_error"), [(32, 0.30, 0.52), (64, 0.52, 0.74), (128, None, None)])
def test_sorted_outliers_spoil_fewer_blocks(block: int, sorted_error: float | None, plain_error: float | None) -> None:
    x = gauss(2000, 128)
    x[:, [3, 40, 70, 100]] *= 20
    order = x.square().mean(0).argsort()
    plain = blockfloat.decode(*blockfloat.encode(x, 4, block), 4)
    by_size = blockfloat.decode(*blockfloat.encode(x[:, order], 4, block), 4)
    if block == 128:
        assert mse(by_size, x[:, order]) == pytest.approx(mse(plain, x), rel=1e-5)
    else:
        assert mse(by_size, x[:, order]) == pytest.approx(sorted_error, rel=0.1) and mse(plain, x) == pytest.approx(plain_error, rel=0.1)


def test_channels_that_turn_together_stand_together() -> None:
    order = by_pairs(torch.tensor([4.0, 0, 1, 0, 7, 0])).tolist()
    assert order == [2, 5, 0, 3, 1, 4]


# TurboQuant


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095)])
def test_a_turned_vector_is_as_near_as_normal_numbers_are(bits: int, error: float) -> None:
    x = gauss(500, 128)
    assert float((through(Turbo(bits, 0), x) - x).square().sum() / x.square().sum()) == pytest.approx(error, rel=0.05)
    assert torch.equal(through(Turbo(bits, 0), torch.zeros(2, 128)), torch.zeros(2, 128))


def test_the_product_form_is_right_on_average() -> None:
    q, x = gauss(128, seed=1), gauss(1, 128, seed=2)
    found = torch.stack([through(Product(Turbo(2, seed)), x)[0] @ q for seed in range(0, 400, 2)])
    assert abs(float(found.mean() - x[0] @ q)) < 3 * float(found.std()) / 200**0.5
    assert Turbo(3, 0).row_bytes(128, 2) == 50 and Product(Turbo(2, 0)).row_bytes(128, 2) == 52


# QuantizedCache


def test_the_window_empties_all_at_once_and_everything_is_coded_again() -> None:
    session, _ = feed(tiny(), make("quantizedcache", knobs={"group": 8, "residual": 4}), 21)
    column = session.cache.layers[1].store.columns["k"]
    first = column.parts[0].rows
    for step in range(1, 4):
        session.decode(torch.tensor([step]))
        assert column.parts[0].rows is first and column.raw_lens().tolist() == [[step, step]]
    session.decode(torch.tensor([9]))
    column = session.cache.layers[1].store.columns["k"]
    assert column.raw_lens().tolist() == [[0, 0]] and column.lens().tolist() == [[25, 25]] and column.parts[0].rows is not first


# ZipCache


def test_of_equal_scores_the_earlier_is_least() -> None:
    scores, valid = torch.tensor([[[3.0, 1, 2, 1, 0]]]), torch.tensor([[[True, True, True, True, False]]])
    assert least(scores, torch.tensor([[2]]), valid).tolist() == [[[False, True, False, True, False]]]


def test_keys_per_channel_equal_the_plain_loop() -> None:
    x, lens = gauss(10, 5), torch.tensor([[4, 6]])
    codec = PerChannel(2)
    mine = Each.of(x, lens, codec, x.dtype, codec.ranges(x, lens)).decode()
    for start, stop in ((0, 4), (4, 10)):
        for c in range(5):
            column = x[start:stop, c]
            low, step = column.min().half().float(), ((column.max() - column.min()) / 3).half().float()
            assert torch.allclose(mine[start:stop, c], ((column - low) / step).round().clamp(0, 3) * step + low, atol=1e-5)


def test_zipcache_holds_the_two_sets_of_the_card() -> None:
    session, _ = feed(tiny(), make("zipcache", knobs={"gap": 5}), 50, 5)
    rows = session.cache.layers[0].store.columns["k"].parts[0].rows
    which = rows.which().view(2, 55)
    assert (~which[:, :50]).sum(1).tolist() == [20, 20] and (~which[:, 50:]).sum(1).tolist() == [2, 2]
    assert rows.first.codec.bits == 4 and rows.second.codec.bits == 2


# MiKV


def test_the_balancer_changes_no_score_and_flattens_what_only_keys_have() -> None:
    q, k = gauss(64, 128, seed=1), gauss(64, 128, seed=2)
    k[:, 5] *= 50
    q[:, 5] /= 50
    b = balancer(q.abs().amax(0), k.abs().amax(0))
    assert torch.allclose((q / b) @ (k * b).T, q @ k.T, rtol=1e-5, atol=1e-3)
    codec = MinMax(2, 128)
    balanced = ((q @ (through(codec, k * b) / b - k).T) / 128**0.5).square().mean()
    plain = ((q @ (through(codec, k) - k).T) / 128**0.5).square().mean()
    assert float(balanced) == pytest.approx(0.25, rel=0.3) and float(plain) == pytest.approx(6, rel=0.4)
    assert balancer(torch.tensor([0.0, 1e9]), torch.tensor([1.0, 1.0])).tolist() == [1, 1000]


def test_a_token_once_held_in_few_bits_stays_so() -> None:
    session, _ = feed(tiny(), make("mikv", knobs={"share": 0.3}), 60)
    low = lambda: [~layer.store.columns["k"].parts[0].rows.which().view(2, -1) for layer in session.cache.layers]  # noqa: E731
    before = low()
    for step in range(6):
        session.decode(torch.tensor([step]))
    for old, new, layer in zip(before, low(), session.cache.layers, strict=True):
        assert bool(new[:, : old.shape[1]][old].all()) and int(new[0].sum()) == 66 - round(0.3 * 66)
        assert layer.store.raw_lens("k").tolist() == [[round(0.5 * round(0.3 * 66))] * 2]


def test_mikv_demotes_what_h2o_drops() -> None:
    """At the same number of precise tokens the same ones are chosen at a prompt's end."""
    whole = feed(tiny(), make("h2o", "0.3"), 60)[0].cache.layers
    mine = feed(tiny(), make("mikv", knobs={"share": 0.3}), 60)[0].cache.layers
    for theirs, layer in zip(whole, mine, strict=True):
        raw = int(layer.store.raw_lens("k")[0, 0])
        which = layer.store.columns["k"].parts[0].rows.which().view(2, -1)
        for head in range(2):
            precise = [*which[head].nonzero()[:, 0].tolist(), *range(60 - raw, 60)]
            assert precise == theirs.store.pos()[0].expand(2, -1)[head].tolist()


# GEAR


def test_an_error_of_low_rank_is_mended_whole() -> None:
    error = gauss(40, 3) @ gauss(3, 16, seed=1)
    left, right = low_rank(error, 4)
    assert torch.allclose(left @ right, error, atol=1e-4)


def test_extremes_are_the_largest_and_smallest_of_each_vector() -> None:
    x = torch.tensor([[5.0, 1], [0, 9], [2, 2], [-4, 3]])
    assert extremes(x, 0, 0.5).tolist() == [[True, True], [False, True], [False, False], [True, False]]
    assert not extremes(x, 0, 0).any() and extremes(gauss(64, 4), 0, 0.02).sum(0).tolist() == [2] * 4


@pytest.mark.parametrize("name", ["k", "v"])
def test_gear_without_help_is_its_backbone_and_help_helps(name: str) -> None:
    x, lens = gauss(64, 16), torch.tensor([[32, 32]])
    x[7, 3], x[40, 9] = 60, -60
    bare = GEAR(bits=2, group=8, gap=8, outliers=0).mend(x, lens, name, 0)
    assert torch.equal(bare.decode(), bare.base.decode())
    helped = [GEAR(bits=2, group=8, gap=8, outliers=o).mend(x, lens, name, r).decode() for o, r in ((0, 4), (0.02, 0), (0.02, 4))]
    assert all(mse(rows, x) < mse(bare.decode(), x) for rows in helped)
    assert float(helped[1][7, 3]) == 60 and float(helped[2][40, 9]) == -60


# KVQuant


def test_the_next_entries_inside_the_outliers_are_the_range() -> None:
    outside, high, low = ends(torch.tensor([[5.0, -3, 1, 0, 2, -7]]), 1)
    assert sorted(outside[0].tolist()) == [0, 5] and (high.item(), low.item()) == (2, -3)


def test_outliers_are_exact_and_levels_near_the_best() -> None:
    x = gauss(600, 64).half().float()
    levels = kmeans(gauss(1, 8000, 1), 16, 40)[0].flatten().sort().values
    artefact = Artefact(kvquant_offset=torch.zeros(64), kvquant_range=torch.ones(64), kvquant_k_levels=levels, kvquant_v_levels=levels)
    plain = Joint.of(x, torch.tensor([[600]]), Levels(4, 0.0, "k", artefact), x.dtype).decode()
    assert mse(plain, x) == pytest.approx(0.0096, rel=0.1)
    for column in "kv":
        back = Joint.of(x, torch.tensor([[600]]), Levels(4, 0.05, column, artefact), x.dtype).decode()
        outside = ends(x, 2)[0]
        assert torch.equal(back.gather(1, outside), x.gather(1, outside))


def test_kvquant_costs_what_the_card_says() -> None:
    assert [2 * math.ceil(0.005 * c) for c in (4096, 1024)] == [42, 12]
    assert Levels(3, 0.01, "k", None).row_bytes(4096, 2) == 4096 * 3 // 8 + 168 and Levels(3, 0.01, "v", None).row_bytes(1024, 2) == 384 + 48 + 4


# CQ


def test_as_many_codes_as_points_lose_nothing_and_again_is_the_same() -> None:
    points = gauss(16, 4)
    x = points[torch.randint(0, 16, (400, 1, 2), generator=torch.Generator().manual_seed(0))].flatten(2)
    artefact = Artefact(cq_k=learn(x, 4, 4, 40))
    codec = Coupled(4, 4, "k", artefact)
    back = through(codec, x[:, 0])
    assert torch.equal(through(codec, back), back)
    assert torch.allclose(back, x[:, 0], atol=1e-5)
    assert codec.row_bytes(8, 2) == 1


def test_coupling_helps_channels_that_go_together() -> None:
    x = gauss(4000, 1, 1).expand(-1, -1, 2)
    pair, single = learn(x, 2, 2, 30)[0], learn(x, 1, 1, 30)[0]
    coupled = pair[0][nearest(x[:, 0][None], pair)[0]]
    alone = single[0][nearest(x[:, 0, :1][None], single)[0]]
    assert mse(coupled, x[:, 0]) == pytest.approx(0.12, rel=0.1) and mse(alone, x[:, 0, :1]) == pytest.approx(0.36, rel=0.1)


# ResQ


def test_the_last_directions_vary_most_and_get_the_bits() -> None:
    x = gauss(2048, 128)
    x[:, 0] *= 10
    turn = basis(x, 16)
    assert torch.allclose(turn @ turn.T, torch.eye(128), atol=1e-5)
    assert float(turn[0, -16:].square().sum()) > 0.999
    artefact = Artefact(resq_k=turn)
    error = lambda low, high: mse(through(Parts(low, high, 0.125, "k", artefact), x), x)  # noqa: E731
    plain = mse(through(MinMax(4, 128, "integer"), x), x)
    assert error(4, 8) == pytest.approx(0.008, rel=0.3) and plain == pytest.approx(0.056, rel=0.3) and error(8, 8) < 1e-4
    assert Parts(4, 8, 0.125, "k", None).row_bytes(128, 2) == 80


# OSTQuant


def test_learned_coordinates_undo_themselves_and_lose_no_more_than_before() -> None:
    x = gauss(2, 300, 16) * torch.linspace(0.2, 6, 16)
    x[..., 3] += 8
    still = torch.eye(16).expand(2, -1, -1)
    keys = learn_turns({"scale": torch.zeros(2, 8)}, of_keys, x, still, 4, 25)
    values = learn_turns({"skew": torch.zeros(2, 16, 16), "scale": torch.zeros(2, 16)}, of_values, x, still, 4, 25)
    for there, back, before, after in (keys, values):
        assert torch.allclose(there @ back, still, atol=1e-4) and bool((after <= before).all()) and float(after.sum()) < float(before.sum())
    turn = of_values({"skew": gauss(1, 16, 16), "scale": torch.zeros(1, 16)})[0][0]
    assert torch.allclose(turn @ turn.T, torch.eye(16), atol=1e-5)


def test_only_equal_scales_of_a_pair_pass_through_rotary_positions() -> None:
    q, k, turn = gauss(4, seed=1), gauss(4, seed=2), [gauss(1, seed=s).item() for s in (3, 4)]

    def rotated(x: Tensor, at: int) -> Tensor:
        cos, sin = (torch.tensor([f(at * t) for t in turn] * 2) for f in (math.cos, math.sin))
        return x * cos + torch.cat([-x[2:], x[:2]]) * sin

    want = rotated(q, 9) @ rotated(k, 2)
    for scale, same in (([2.0, 3, 2, 3], True), ([2.0, 3, 4, 5], False)):
        s = torch.tensor(scale)
        assert torch.allclose(rotated(q * s, 9) @ rotated(k / s, 2), want, atol=1e-4) == same
    assert torch.equal(paired(torch.tensor([[2.0, 3.0]]).log()).round(), torch.tensor([[2.0, 3, 2, 3]]))


# CSR


@pytest.mark.parametrize("size", [64, 128])
def test_three_known_atoms_are_found_exactly(size: int) -> None:
    atoms = torch.nn.functional.normalize(gauss(size, 2 * size), dim=0)
    draw = torch.Generator().manual_seed(1)
    picks = torch.stack([torch.randperm(2 * size, generator=draw)[:3] for _ in range(200)])
    x = (atoms.T[picks] * (torch.rand(200, 3, 1, generator=draw) + 0.5)).sum(1)
    which, weights = pursue(x, atoms, 3)
    assert torch.allclose((atoms.T[which] * weights[..., None]).sum(1), x, atol=1e-4)
    assert torch.equal(which.sort(dim=1).values, picks.sort(dim=1).values)


def test_more_atoms_are_never_worse_and_unit_axes_are_pruning_by_magnitude() -> None:
    x, atoms = gauss(50, 16), torch.nn.functional.normalize(gauss(16, 40, seed=1), dim=0)
    errors = [(torch.einsum("ns,nsd->nd", w, atoms.T[i]) - x).square().sum(1) for i, w in (pursue(x, atoms, s) for s in (1, 2, 4, 8))]
    assert all(bool((more <= less + 1e-6).all()) for less, more in itertools.pairwise(errors))
    artefact = Artefact(csr_k=torch.eye(16))
    for terms in (5, 16):
        assert torch.allclose(through(SparseCode(16, terms, 16, "k", artefact), x), x * largest(x, terms), atol=2e-3)
    assert SparseCode(4096, 4, 8, "k", None).row_bytes(128, 2) == 6 + 4 + 2


# VcLLM


@pytest.mark.parametrize(("codec", "qp"), [("hevc", 0), ("h264", 0), ("ffv1", 28)])
@pytest.mark.parametrize("shape", [(64, 64), (70, 33)])
def test_a_lossless_picture_is_the_picture(codec: str, qp: int, shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).normal(128, 30, shape).clip(0, 255).astype(np.uint8)
    head, packets = encode_grey(grey, codec, qp)
    assert (decode_grey(head, packets, shape, codec) == grey).all()


@pytest.mark.parametrize(("codec", "first"), [("hevc", 28), ("h264", 22)])
def test_six_steps_coarser_quadruple_the_error(codec: str, first: int) -> None:
    grey = np.random.default_rng(0).normal(128, 30, (128, 192)).clip(0, 255).astype(np.uint8)
    errors, sizes = [], []
    for qp in (first, first + 6, first + 12):
        head, packets = encode_grey(grey, codec, qp)
        once, again = (decode_grey(head, packets, grey.shape, codec) for _ in range(2))
        assert (once == again).all()
        errors.append(float(((again.astype(float) - grey) ** 2).mean()))
        sizes.append(len(packets))
    assert all(3.4 < b / a < 4.7 for a, b in itertools.pairwise(errors)) and sizes == sorted(sizes, reverse=True)


def test_a_picture_of_nothing_is_short() -> None:
    assert sum(map(len, encode_grey(np.full((64, 64), 9, np.uint8), "hevc", 28))) == HEADERS["hevc"] - 1
    assert sum(map(len, encode_grey(np.full((64, 64), 9, np.uint8), "h264", 28))) == pytest.approx(HEADERS["h264"], abs=10)
    x = torch.full((5, 3), 2.5)
    assert torch.equal(Picture.of(x, "ffv1", 0, torch.float16).decode(), x)


def test_bytes_of_a_film_are_those_of_its_files() -> None:
    x, lens = gauss(50, 4), torch.tensor([[10, 10], [18, 12]])
    film = Film.of(x, lens, "h264", 10, torch.float32, torch.float16)
    assert storage_bytes(film.tensors()) == sum(len(p.data) for p in film.pictures) + 2 * 4 * 8 + 4 * 50
    mask = torch.arange(50) % 2 == 0
    assert torch.equal(film.keep(mask).decode(), film.decode()[mask]) and mse(film.decode(), x) < 0.01


# AQUA-KV


@pytest.mark.parametrize(("bits", "error"), [(2, 0.108), (3, 0.0295), (4, 0.0078)])
def test_pairs_on_the_grid_are_as_near_as_the_card_says(bits: int, error: float) -> None:
    x, higgs, points = gauss(100, 1024), Higgs(bits, 1024), grid(bits)
    back = higgs.decode(*higgs.encode(x, points, torch.float16), 1024, points)
    assert float((back - x).square().sum() / x.square().sum()) == pytest.approx(error, rel=0.03)
    assert higgs.row_bytes(1024) == 128 * bits + 2


def test_a_layer_that_follows_from_the_one_below_keeps_its_error_only() -> None:
    below, points = gauss(3000, 64), grid(4)
    above, higgs = below @ gauss(64, 64, seed=1), Higgs(4, 1024)
    seen = higgs.decode(*higgs.encode(below, points, torch.float16), 64, points)
    left = lambda x: float((above - torch.cat([x, x.new_ones(len(x), 1)], 1) @ fit(x, above).float()).square().sum() / above.square().sum())  # noqa: E731
    assert left(seen) == pytest.approx(0.008, rel=0.15) and left(below) < 1e-5


def test_aquakv_guesses_from_what_it_reads_back_and_without_a_guess_is_higgs() -> None:
    method, lm = make("aquakv", knobs={"buffer": 16, "sinks": 0, **SHORT}), tiny()
    session = feed(lm, method, 40)[0]
    layers = session.cache.layers
    rows = [layer.store.columns["v"].parts[0].rows for layer in layers]
    assert torch.equal(rows[2].decode(), rows[2].decode()) and rows[2].chunk.inputs[1] is rows[1].chunk
    exact = feed(lm, Method(), 40)[0].cache.layers
    v = exact[1].store.view().v[0].transpose(0, 1).flatten(1)
    assert mse(rows[1].chunk.vectors(), v) == pytest.approx(0.108 * mse(rows[1].chunk.guess(), v), rel=0.1)
    for name, tensor in session.cache.artefact.items():
        if name[5:6] in "kv":
            tensor.zero_()
    points = session.cache.artefact["aqua grid"]
    again = rows[1].chunk.filled(v, torch.float16)
    assert torch.equal(again.codes, Higgs(2, 1024).encode(v, points, torch.float16)[0])


def test_aquakv_costs_what_the_card_says() -> None:
    row = Higgs(2, 1024).row_bytes(1024), Higgs(4, 1024).row_bytes(1024)
    assert 4096 * 2 * (31 * row[0] + row[1]) == 69_730_304


def test_aquakv_waits_for_a_buffer_and_codes_all_of_it() -> None:
    session = feed(tiny(), make("aquakv", knobs={"buffer": 16, **SHORT}), 19)[0]
    store = lambda: session.cache.layers[1].store  # noqa: E731
    assert store().raw_lens("k").tolist() == [[19, 19]]
    session.decode(torch.tensor([1]))
    assert store().raw_lens("k").tolist() == [[0, 0]] and store().columns["k"].parts[0].rows.which().sum() == 8
    for at in range(16):
        assert store().raw_lens("k").tolist() == [[at, at]]
        session.decode(torch.tensor([at]))
    assert store().raw_lens("k").tolist() == [[0, 0]] and len(store().columns["k"].parts) == 2


# all of them


QUANTIZERS: dict[str, dict[str, Any]] = {
    "fp8": {}, "quarot": {}, "rotatekv": SHORT, "bfp": SHORT, "turboquant": {}, "quantizedcache": {"residual": 8}, "zipcache": {"gap": 8}, "mikv": {},
    "gear": {"group": 8, "gap": 8, "later_rank": 0}, "kvquant": SHORT, "cq": {"bits": 4, **SHORT}, "resq": SHORT,
    "ostquant": {"steps": 2, **SHORT}, "csr": {"atoms": 32, "steps": 2, "csr.window": 8, **SHORT}, "vcllm": {"codec": "h264", "qp": 34, "vcllm.window": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("host", ["snapkv", "lagkv"])
def test_every_quantizer_runs_over_methods_that_drop(host: str, name: str) -> None:
    knobs = {"snapkv": {"snapkv.window": 8}, "lagkv": {"lag": 8, "sinks": 4}}[host]
    session, logits = feed(tiny(), make(f"{host}+{name}", "0.5", knobs | QUANTIZERS[name]), 64, 20)
    alone = feed(tiny(), make(host, "0.5", knobs), 64, 20)[0]
    assert torch.isfinite(logits).all()
    assert session.cache.nbytes() < alone.cache.nbytes()
    assert all(torch.equal(a.store.lens(), b.store.lens()) for a, b in zip(session.cache.layers, alone.cache.layers, strict=True))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_half_precision_holds_the_bytes_predicted(name: str) -> None:
    lm, method = half(tiny()), make(name, knobs=QUANTIZERS[name])
    session, logits = feed(lm, method, 50, 9)
    assert torch.isfinite(logits.float()).all()
    # how long the streams of a video codec get is up to the picture
    assert session.cache.nbytes() == pytest.approx(predicted_bytes(method, lm.geometry, 59, 50), rel=0.5 if name == "vcllm" else 0)


def test_aquakv_refuses_heads_that_keep_different_tokens() -> None:
    with pytest.raises(ValueError, match="aquakv needs the same entries in every head"):
        make("snapkv+aquakv")


@pytest.mark.parametrize("name", [n for n in QUANTIZERS if n not in ("quantizedcache", "zipcache", "mikv")])
def test_codes_once_made_stay(name: str) -> None:
    session: Session = feed(tiny(), make(name, knobs=QUANTIZERS[name]), 48)[0]
    before = [layer.store.view() for layer in session.cache.layers]
    for at in range(9):
        session.decode(torch.tensor([at]))
    for old, layer in zip(before, session.cache.layers, strict=True):
        view, coded = layer.store.view(), 40
        assert torch.equal(view.k[:, :, :coded], old.k[:, :, :coded]) and torch.equal(view.v[:, :, :coded], old.v[:, :, :coded])
