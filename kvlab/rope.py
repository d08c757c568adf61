"""Rotary positions taken off keys and put back on, with the model's own rotary module and its own way of pairing channels.

Caches hold keys as attention wants them, already turned to their positions. Methods that factor, quantise or re-index keys want them
before that: `layer.rope.unrotate(keys, pos)`. It is there when the method's `needs` name "rope".
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kvlab.cache import KVCache
from kvlab.method import Method
from kvlab.trace import Silent

if TYPE_CHECKING:
    from kvlab.models import LM


class Rope:
    """The rotation of one layer, always in float32: half precision loses three digits in one turn.

    `keys` [..., D] with `pos` int [...], any shape that broadcasts against it: [B, H, T, D] with [B, 1, T] or [B, H, T], packed [N, D]
    with [N]. Channels that the family does not rotate come back as they are. `rotary` None: a layer without rotation.
    """

    def __init__(self, rotary: nn.Module | None, apply: Callable, layer_type: str | None = None) -> None:
        self.rotary, self.apply = rotary, apply
        self.extra = {} if layer_type is None else {"layer_type": layer_type}
        self.limit = None if rotary is None else _limit(rotary, layer_type)

    def rotate(self, keys: Tensor, pos: Tensor) -> Tensor:
        """Keys as the model puts them into its cache at `pos`."""
        return keys.float() if self.rotary is None else self._apply(keys, *self._angles(keys, pos))

    def unrotate(self, keys: Tensor, pos: Tensor) -> Tensor:
        """Keys as the projection (and its norm) made them, from those cached at `pos`."""
        if self.rotary is None:
            return keys.float()
        cos, sin = self._angles(keys, pos)
        square = cos.square() + sin.square()  # the attention scaling of YaRN and its like is inside both, so it leaves as its square
        return self._apply(keys, cos / square, -sin / square)

    def shift(self, keys: Tensor, by: Tensor) -> Tensor:
        """Cached keys moved `by` positions (negative: to earlier ones), scaling left as it is."""
        if self.rotary is None:
            return keys.float()
        cos, sin = self._angles(keys, by)
        size = (cos.square() + sin.square()).sqrt()
        return self._apply(keys, cos / size, sin / size)

    def average(self, pos: Tensor, size: int) -> Tensor:
        """[D, D] that turns a row of `size` D, not rotated, to the mean of its rotations at `pos` [n], as row @ matrix.

        A rotation is linear in its cosines and sines, so the mean rotation is the one by their means.
        """
        unit = torch.eye(size, device=pos.device)
        if self.rotary is None:
            return unit
        cos, sin = (part.mean(0, keepdim=True) for part in self._angles(unit, pos))
        return self._apply(unit, cos, sin)

    def _angles(self, keys: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        if self.limit is not None and pos.numel() and int(pos.max()) >= self.limit:
            raise ValueError(f"The rotary frequencies of this model change at {self.limit:,} positions; this method works up to there. Shorten the prompt.")
        like = torch.empty(0, dtype=torch.float32, device=keys.device)
        cos, sin = self.rotary(like, pos.reshape(1, -1).long(), **self.extra)
        return cos.view(*pos.shape, -1), sin.view(*pos.shape, -1)

    def _apply(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # a leading dimension for `unsqueeze_dim`, and no queries: the functions of all families turn both at once
        keys = keys.float()[None]
        return self.apply(keys[:0], keys, cos, sin, unsqueeze_dim=0)[1][0]


def _limit(rotary: nn.Module, layer_type: str | None) -> int | None:
    """The position from which frequencies depend on the length of the whole text (dynamic NTK, LongRoPE), if there is one."""
    kind, said = getattr(rotary, "rope_type", "default"), rotary.config.rope_parameters
    if layer_type is not None:
        kind, said = kind[layer_type], said[layer_type]
    if kind != "longrope" and "dynamic" not in kind:
        return None
    return said.get("original_max_position_embeddings") or rotary.original_max_seq_len


def ropes(lm: LM) -> list[Rope]:
    """One `Rope` per layer of a model with rotary positions.

    Each is held against the model itself: the keys of a single token at positions 0 and 1 differ by exactly one turn, or not at all in
    a layer without rotation. Raises ValueError when neither is so.
    """
    decoder = lm.model.get_decoder()
    rotary, apply = getattr(decoder, "rotary_emb", None), getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
    refusal = f"kvlab cannot take the rotary positions of {lm.geometry.family} off its keys. Choose a method that leaves them on."
    if rotary is None or apply is None:
        raise ValueError(refusal)
    rotary = copy.deepcopy(rotary)  # some rotary modules change themselves as texts grow: this one belongs to one run
    typed = "layer_type" in inspect.signature(rotary.forward).parameters
    types = decoder.config.layer_types if typed else [None] * lm.geometry.layers
    found, near = [], 1e-5 if lm.model.dtype == torch.float32 else 3e-2
    for kind, first, second in zip(types, _one_token(lm, 0), _one_token(lm, 1), strict=True):
        rope = Rope(None, apply) if torch.equal(first, second) else Rope(rotary, apply, kind)
        turned = rope.rotate(rope.unrotate(first, _at(0, first)), _at(1, first))
        if not torch.allclose(turned, second.float(), rtol=0, atol=near * float(second.abs().max().clamp(min=1))):
            raise ValueError(refusal)
        found.append(rope)
    return found


def _at(position: int, keys: Tensor) -> Tensor:
    return torch.full((1, 1, 1), position, device=keys.device)


@torch.no_grad()
def _one_token(lm: LM, position: int) -> list[Tensor]:
    """Cached keys [4, H, 1, D] of all layers, four texts of one token at `position`. A lone token sees itself only, wherever it stands."""
    # several tokens, as one alone may be padding with an embedding of zeros
    ids = torch.linspace(1, lm.model.get_input_embeddings().num_embeddings - 1, 4, device=lm.device).long()[:, None]
    cache = KVCache(Method(), lm.geometry, len(ids), Silent(), lm.device)
    lm.model(input_ids=ids, position_ids=torch.full_like(ids, position), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [layer.store.view().k for layer in cache.layers]
