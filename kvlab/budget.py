"""One budget with three units: a kept fraction of the tokens, tokens, or bytes of cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@dataclass(frozen=True)
class Budget:
    """`amount` in `unit`: "fraction" (0 < amount <= 1, of the prompt's tokens), "tokens" (per KV head on average) or "bytes"."""

    amount: float
    unit: str = "fraction"

    @classmethod
    def parse(cls, text: str | float | int | Budget) -> Budget:
        """`0.25`, `512t` or `20MB`. Raises ValueError with a sentence that says what is accepted."""
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?)\s*(t|[kMG]?B|[KMG]iB|%)?\s*", str(text))
        if not match:
            raise ValueError(f"Cannot read the budget {str(text)!r}. Write a kept fraction (0.25), tokens (512t) or bytes of cache (20MB).")
        amount, unit = float(match[1]), match[2]
        if unit == "%":
            amount, unit = amount / 100, None
        if unit is None:
            if not 0 < amount <= 1:
                raise ValueError(f"A kept fraction lies above 0 and at most 1, not {amount:g}. For tokens write {amount:g}t.")
            return cls(amount)
        if unit == "t":
            if amount < 1 or amount != int(amount):
                raise ValueError(f"A budget in tokens is a whole number of at least 1, not {amount:g}.")
            return cls(amount, "tokens")
        if amount <= 0:
            raise ValueError("A budget in bytes is above 0.")
        return cls(amount * _UNITS[unit], "bytes")

    def tokens(self, prompt: int) -> int:
        """Slots per KV head for a prompt of `prompt` tokens, at least 1 and at most all."""
        if self.unit == "bytes":
            raise ValueError("A budget in bytes is turned into tokens by the engine before the run.")
        amount = self.amount * prompt if self.unit == "fraction" else self.amount
        return max(1, min(prompt, round(amount)))

    def limit(self, tokens: int, prompt: int) -> int:
        """Slots per KV head a method that drops while decoding holds after `tokens`, `prompt` of them at the last prefill end.

        A share of the prompt stays the same size as text is written; a number of tokens does too, and everything is everything.
        """
        return self.tokens(prompt if self.unit == "fraction" and self.amount < 1 else tokens)

    def __str__(self) -> str:
        if self.unit == "fraction":
            return f"{self.amount:g}"
        return f"{self.amount:.0f}t" if self.unit == "tokens" else f"{self.amount:.0f}B"
