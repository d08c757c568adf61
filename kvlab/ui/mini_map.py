"""A stored run in one small still picture for a card of HTML: what every layer and KV head holds at a step, and what it dropped though it was wanted."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image  # comes with Streamlit

from kvlab.runs import StoredRun
from kvlab.ui.start import small_map, spoken

ROW, GAP, BETWEEN = 4, 1, 2
"""Pixels of a row, after a row, and after a layer beyond that."""


def mini_map(run: StoredRun, step: int) -> str:
    """The map at `step` as HTML: one mask that the colour of what is held shines through, and a hatched box for each loss."""
    small = small_map(run, step)
    layers, heads, columns = small["layers"], small["heads"], small["columns"]
    share, tall = (_read(small[name]).reshape(layers, heads, columns) if small[name] else None for name in ("held", "tall"))
    pitch = heads * (ROW + GAP) + BETWEEN
    alpha = np.zeros((layers * pitch - BETWEEN, columns), np.uint8)
    for layer in range(layers):
        for head in range(heads):
            top = layer * pitch + head * (ROW + GAP)
            high = ROW if tall is None else np.ceil(ROW * tall[layer, head] / 255)  # fewer bits: lower
            alpha[top : top + ROW] = np.where(np.arange(ROW, 0, -1)[:, None] <= high, share[layer, head], 0)
    tops = [100 * ((row // heads) * pitch + (row % heads) * (ROW + GAP)) / len(alpha) for row, _ in small["lost"]]
    lost = "".join(f'<i style="left:{100 * place:.2f}%;top:{top:.2f}%"></i>' for (_, place), top in zip(small["lost"], tops, strict=True))
    mask = f"url(data:image/png;base64,{_png(alpha)}) 0 0 / 100% 100% no-repeat"
    style = f"-webkit-mask:{mask};mask:{mask}"
    return f'<div class="kv-mini" role="img" aria-label="{spoken(small)}" style="height:{len(alpha)}px"><b style="{style}"></b>{lost}</div>'


def _read(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def _png(alpha: np.ndarray) -> str:
    whole = np.stack([np.zeros_like(alpha), alpha], axis=-1)
    file = io.BytesIO()
    Image.fromarray(whole, "LA").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
