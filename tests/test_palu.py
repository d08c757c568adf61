"""Palu: its directions against the whitened decomposition of the weight, its ranks, its rows, and a wrong turn each must not take."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab.geometry import Geometry
from kvlab.methods.channels.palu import Latent, Palu, directions, fisher, shared_out
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM, load
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.session import Session

IDS = torch.randint(0, 128, (2, 60), generator=torch.Generator().manual_seed(3))
SHORT = {"passages": 2, "length": 40}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_directions_of_the_outputs_are_those_of_the_whitened_weight(rank: int) -> None:
    weight, inputs = noise(12, 20, seed=1), noise(90, 20, seed=2) * torch.linspace(0.1, 2, 20)
    left, sizes, _ = torch.linalg.svd(weight @ torch.linalg.cholesky(inputs.T @ inputs))
    outputs = inputs @ weight.T
    found = directions(outputs).double()[:, :rank]
    assert torch.allclose(found @ found.T, left[:, :rank] @ left[:, :rank].T, atol=1e-5)
    # what is lost on the calibration text is what the directions left out carry, and less than the plain weight's would lose
    lost = (outputs - outputs @ found @ found.T).square().sum()
    plain = torch.linalg.svd(weight)[0][:, :rank]
    assert torch.allclose(lost, sizes[rank:].square().sum(), rtol=1e-4, atol=1e-5 * float(outputs.square().sum()))
    assert lost <= (outputs - outputs @ plain @ plain.T).square().sum() + 1e-9


@pytest.mark.parametrize(
    ("scores", "total", "most", "want"),
    [
        ([1, 1, 1, 1], 8, 8, [2, 2, 2, 2]),
        ([4, 2, 1, 1], 16, 16, [8, 4, 2, 2]),
        ([100, 1, 1], 12, 6, [6, 3, 3]),  # what one cannot hold goes to the others
        ([1, 0, 0], 5, 9, [3, 1, 1]),  # nobody goes empty
        ([0, 0], 6, 4, [3, 3]),
        ([3, 2, 1], 30, 8, [8, 8, 8]),  # no more than all
        ([5, 3], 1, 8, [1, 1]),
    ],
)
def test_blocks_are_shared_out_by_scores(scores: list[float], total: int, most: int, want: list[int]) -> None:
    assert shared_out([float(score) for score in scores], total, most) == want


def plain_fisher(lm: LM, ids: Tensor) -> list[float]:
    """By transformers' own attention and `backward`, on a copy of the model."""
    model = type(lm.model)(copy.deepcopy(lm.model.config))
    model.load_state_dict(lm.model.state_dict())
    model.set_attn_implementation("eager")
    weights = [part.weight for layer in model.model.layers for part in (layer.self_attn.k_proj, layer.self_attn.v_proj)]
    squares = [torch.zeros_like(weight) for weight in weights]
    for row in ids:
        model.zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        squares = [old + weight.grad.square() for old, weight in zip(squares, weights, strict=True)]
    return [float((x / len(ids)).sqrt().mean()) for x in squares]


def test_fisher_is_the_root_mean_square_of_gradients_and_leaves_none_behind() -> None:
    lm = tiny()
    with torch.inference_mode(False), torch.no_grad():  # as when a run calibrates
        found = fisher(lm, IDS)
    assert found.shape == (lm.geometry.layers, 2) and found.flatten().tolist() == pytest.approx(plain_fisher(lm, IDS), rel=1e-3)
    assert all(weight.grad is None for weight in lm.model.parameters())


def test_the_gradient_of_a_normalised_key_is_up_to_its_weights_size() -> None:
    lm = dataclasses.replace(tiny(), model=copy.deepcopy(tiny().model))
    with torch.no_grad():
        for layer in lm.model.model.layers:
            layer.self_attn.k_proj.weight.mul_(4)  # the norm behind it takes that out again
    ratio = fisher(lm, IDS) / fisher(tiny(), IDS)
    assert torch.allclose(ratio, torch.tensor([0.25, 1.0]).expand(3, -1), rtol=1e-2)


def test_a_family_with_one_weight_for_all_is_told_to_search_evenly() -> None:
    lm = dataclasses.replace(tiny(), model=copy.deepcopy(tiny().model))
    for layer in lm.model.model.layers:
        del layer.self_attn.v_proj
    with pytest.raises(ValueError, match="Set search to uniform"):
        fisher(lm, IDS)


class Known:
    """Stands in for a layer with an artefact of one layer."""

    index = 0

    def __init__(self, **artefact: Tensor) -> None:
        self.cache = self
        self.artefact = {name.replace("_", " "): tensor[None] for name, tensor in artefact.items()}


def latent(rank: int, width: int, wide: int, groups: int, item: int = 4) -> tuple[Latent, Tensor]:
    bases = torch.stack([directions(noise(200, wide, seed=g)) for g in range(groups)])
    return Latent(rank, wide, width, item, "k", Known(palu_k=bases)), bases


@pytest.mark.parametrize(("wide", "groups", "rank"), [(16, 1, 5), (8, 3, 8), (12, 2, 7)])
def test_rows_are_projected_group_by_group(wide: int, groups: int, rank: int) -> None:
    codec, bases = latent(rank, 16, wide, groups)
    rows = noise(9, groups * wide, seed=7).float()
    held = codec.encode(rows, torch.float16, None, ())
    want = torch.cat([rows[:, g * wide : (g + 1) * wide] @ (u := bases[g, :, :rank]) @ u.T for g in range(groups)], dim=1)
    assert torch.allclose(codec.decode(held, groups * wide, None, ()), want, atol=1e-5)
    assert sum(x[0].nbytes for x in held) == codec.row_bytes(groups * wide, 4) == groups * rank * 4
    assert codec.bits == pytest.approx(32 * rank / wide)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_coordinates_are_quantized_token_by_token(bits: int) -> None:
    codec, _ = latent(7, bits, 12, 2)
    exact, _ = latent(7, 16, 12, 2)
    rows = noise(9, 24, seed=8).float() * torch.tensor([1.0, 1e-3, 1e3]).repeat(3)[:, None]
    held, whole = codec.encode(rows, torch.float16, None, ()), exact.encode(rows, torch.float16, None, ())
    assert sum(x[0].nbytes for x in held) == codec.row_bytes(24, 4) == 2 * (-(-7 * bits // 8) + 4)
    gap = (codec.decode(held, 24, None, ()) - exact.decode(whole, 24, None, ())).unflatten(1, (2, 12)).norm(dim=-1)
    # half a step in each of seven turned coordinates, whose range is at most twice the length of what is held
    assert (gap <= 1.1 * whole[0].norm(dim=-1) * 7**0.5 / (2**bits - 1)).all()
    one = codec.encode(rows[4:5], torch.float16, None, ())
    assert all(torch.equal(a[4:5], b) for a, b in zip(held, one, strict=True))  # no token depends on another


def held_ranks(session: Session) -> list[tuple[int, int]]:
    return [tuple(layer.store.columns[name].parts[0].rows.codec.rank for name in "kv") for layer in session.cache.layers]


def test_ranks_follow_the_gradients_and_add_up_to_what_was_asked() -> None:
    lm, knobs = tiny(), {"block": 4, "share": 0.4, **SHORT}
    sessions = [Session(lm, make("palu", None, {**knobs, "search": search})) for search in ("fisher", "uniform")]
    for session in sessions:
        session.prefill(IDS[:1])
    by_score, even = (held_ranks(session) for session in sessions)
    assert even == [(12, 12)] * 3  # 0.4 of 32 in blocks of four
    flat, scores = [rank for pair in by_score for rank in pair], sessions[0].cache.artefact["palu scores"].flatten()
    assert sum(flat) == 6 * 12 and len(set(flat)) > 1 and all(rank % 4 == 0 for rank in flat)
    order = scores.argsort()
    assert flat[order[0]] <= flat[order[-1]] and flat[order[-1]] == max(flat)
    for session in sessions:
        assert session.cache.nbytes() == predicted_bytes(session.method, lm.geometry, 60, 60) == 60 * 3 * (2 * 12 * 4 + 4)


@pytest.mark.parametrize("knobs", [{"share": 0.5}, {"share": 0.25, "bits": 4, "heads": 1}])
def test_what_is_read_is_the_projection_turned_to_its_position(knobs: dict[str, Any]) -> None:
    lm = tiny()
    session = Session(lm, make("palu", None, {"block": 4, "search": "uniform", **knobs, **SHORT}))
    exact = Session(lm, make("full"))
    for run in (session, exact):
        run.prefill(IDS[:1])
    method, found = session.method, session.cache.layers[0]  # the first layer sees the same text in both
    rope, wide, pos = session.cache.ropes[0], method.wide(lm.geometry), torch.arange(60)[None, None]
    full, mine = exact.cache.layers[0].store.view(), found.store.view()
    for name, rows, got in (("k", rope.unrotate(full.k, pos), rope.unrotate(mine.k, pos)), ("v", full.v, mine.v)):
        basis = session.cache.artefact[f"palu {name}"][0][..., : found.store.columns[name].parts[0].rows.codec.rank]
        side = rows.transpose(1, 2).flatten(2).unflatten(2, (-1, wide))
        want = torch.einsum("btgm,gmr,gnr->btgn", side, basis, basis).flatten(2).unflatten(2, (2, -1)).transpose(1, 2)
        assert float((got - want).norm() / want.norm()) < (1e-5 if method.bits == 16 else 0.15)


def test_it_works_on_the_bundled_model_and_refuses_what_does_not_fit() -> None:
    lm = load("bundled", "cpu", "float32")
    session = Session(lm, make("palu"))
    session.prefill(torch.arange(40)[None])
    assert session.cache.nbytes() == predicted_bytes(session.method, lm.geometry, 40, 40)
    with pytest.raises(ValueError, match="which groups of 3 do not divide"):
        Session(lm, make("palu", None, {"heads": 3}))
    with pytest.raises(ValueError, match="needs the same entries in every head"):
        make("snapkv+palu", "0.5")
    assert isinstance(lm.geometry, Geometry) and Palu(heads=64).wide(lm.geometry) == 128


def test_directions_come_from_keys_before_their_positions() -> None:
    lm = tiny()
    made = Palu(search="uniform", **SHORT).calibrate(lm)
    for i, layer in enumerate(captured(lm, 2, 40, before_rope=True)):
        moment = layer.plain.flatten(1).double().T @ layer.plain.flatten(1).double()
        basis = made["palu k"][i, 0].double()
        turned = basis.T @ moment @ basis
        assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-3 * float(moment.diagonal().max()))
        assert (turned.diagonal().diff() <= 1e-3).all()
