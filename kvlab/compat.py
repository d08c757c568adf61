"""The seam to transformers: everything that differs between the versions kvlab runs under goes here. Nothing else may ask for a version.

Between 5.17 and 5.23 nothing does: all tests pass unchanged under both. What is registered is what moved most before.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import AttentionInterface, AttentionMaskInterface


def register(name: str, attention: Callable, mask: Callable) -> None:
    """Make `attention` selectable as an attention implementation, with `mask` building what it gets as mask.

    Without a mask function under the same name, transformers would drop the padding mask without a word.
    """
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
