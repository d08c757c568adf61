"""The sizes of a model that byte formulas, the trace and the pages need. Read from a config alone: no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Geometry:
    """Per attention layer: KV heads, head sizes, window. `itemsize` is bytes of one cached value."""

    family: str
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    itemsize: int
    context: int
    rope: bool
    latent: tuple[int, int] | None = None  # MLA: (latent size, RoPE key size)

    @classmethod
    def of(cls, config: Any, itemsize: int) -> Geometry:
        """From a transformers config. Raises ValueError with the reason for models whose cache is not one of keys and values."""
        config = config.get_text_config(decoder=True)
        try:
            return cls._read(config, itemsize)
        except AttributeError as error:  # what else than keys and values per layer and head has no such sizes
            raise ValueError(f"{config.model_type} is not built of attention layers that are alike, which kvlab's cache needs.") from error

    @classmethod
    def _read(cls, config: Any, itemsize: int) -> Geometry:
        types = list(getattr(config, "layer_types", None) or [])
        strange = sorted(set(types) - {"full_attention", "sliding_attention"})
        if strange:
            raise ValueError(f"{config.model_type} has layers of the kind {', '.join(strange)}. kvlab holds full and sliding-window attention.")
        if getattr(config, "num_kv_shared_layers", 0):
            raise ValueError(f"{config.model_type} shares keys and values between its own layers already. kvlab gives every layer its own.")
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        latent = (config.kv_lora_rank, config.qk_rope_head_dim) if getattr(config, "kv_lora_rank", None) else None
        return cls(
            family=config.model_type,
            layers=layers,
            query_heads=heads,
            kv_heads=1 if latent else getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            windows=tuple(_windows(config, types, layers)),
            itemsize=itemsize,
            context=config.max_position_embeddings,
            rope=hasattr(config, "rope_parameters") and config.rope_parameters is not None,
            latent=latent,
        )

    @property
    def slot_bytes(self) -> int:
        """Bytes of one token in one layer, full precision: keys, values and its position (int32, one for all heads)."""
        if self.latent:
            return sum(self.latent) * self.itemsize + 4
        return 2 * self.kv_heads * self.head_dim * self.itemsize + 4

    def full_bytes(self, tokens: int) -> int:
        """Bytes of an uncompressed cache of `tokens` tokens: sliding layers end at their window."""
        return sum(self.slot_bytes * (tokens if window is None else min(tokens, window - 1)) for window in self.windows)

    @property
    def open_layers(self) -> int:
        """Layers without a window: the ones methods act on."""
        return sum(window is None for window in self.windows)


def _windows(config: Any, types: list[str], layers: int) -> list[int | None]:
    window = getattr(config, "sliding_window", None)
    if types:
        return [window if kind == "sliding_attention" else None for kind in types]
    used = window is not None and getattr(config, "use_sliding_window", True)
    return [window if used else None] * layers
