"""Made-up tables in the form of a sweep's, for tests of figures only: plausible curves, not results."""

from __future__ import annotations

import numpy as np
import pandas as pd

FULL = 471 * 1024
METHODS = {  # title, axis, budget where half is lost, bits
    "snapkv": ("SnapKV", "eviction", 0.42, 16), "lagkv": ("LagKV", "eviction", 0.33, 16), "streamingllm": ("StreamingLLM", "eviction", 0.55, 16),
    "h2o": ("H2O", "eviction", 0.3, 16), "random": ("Random", "eviction", 0.8, 16), "quest": ("Quest", "retrieval", 0.1, 16),
    "snapkv+kivi": ("SnapKV + KIVI", "eviction", 0.42, 4.5), "keydiff+kivi": ("KeyDiff + KIVI", "eviction", 0.16, 4.5),
}  # fmt: skip


def wilson(right: int, n: int) -> tuple[float, float]:
    z, p = 1.96, right / n
    middle, half = (p + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def row(method: str, title: str, axis: str, budget: float, task: str, n: int, **more: object) -> dict:
    return {
        "model": "bundled", "method": method, "title": title, "axis": axis, "setting": f"{100 * budget:g} % kept", "budget": budget,
        "task": task, "length": 512,
        "mode": "question after compression", "better": "higher", "n": n, "interval": "wilson", "full": FULL, "prefill_s": 0.2, "decode_s": 0.4,
        "kept_fraction": budget, "run": f"{method}-{budget:g}-{task}", "source": "measured", "peak": FULL * 1.1,
        "read_per_step": FULL * budget, "low": 0.0, "high": 0.0, **more,
    }  # fmt: skip


def points(tasks: tuple[str, ...] = ("niah",), n: int = 56, seed: int = 0) -> pd.DataFrame:
    """A sweep over `tasks`; "ppl" is small-is-good. The full cache, eight methods at five budgets, KIVI at two bit widths."""
    rng = np.random.default_rng(seed)
    rows = []
    for shift, task in enumerate(tasks):
        rows.append(_scored(row("full", "Full cache", "reference", 1, task, n, resident=FULL, setting="every entry"), 0.89 - 0.03 * shift, rng))
        for method, (title, axis, half, bits) in METHODS.items():
            for budget in (0.5, 0.25, 0.125, 0.0625) if "+" not in method else (1, 0.5, 0.25, 0.125):
                held = FULL if method == "quest" else FULL * (budget * bits / 16 + 0.02)
                rows.append(_scored(row(method, title, axis, budget, task, n, resident=held), 0.9 / (1 + (half * (1 + 0.2 * shift) / budget) ** 2.2), rng))
        for bits, held in ((4, 0.31), (2, 0.2)):
            line = row("kivi", "KIVI", "quantization", bits / 16, task, n, resident=FULL * held, setting=f"{bits} bits")
            rows.append(_scored(line, 0.9 if bits == 4 else 0.72, rng))
    return pd.DataFrame(rows)


def _scored(line: dict, chance: float, rng: np.random.Generator) -> dict:
    n = line["n"]
    if line["task"] == "ppl":
        mean = 3.2 / max(chance, 0.05)
        return line | {"better": "lower", "interval": "bootstrap", "mean": mean, "low": mean * 0.95, "high": mean * 1.06}
    right = int(rng.binomial(n, min(1, chance)))
    low, high = wilson(right, n)
    return line | {"mean": right / n, "low": low, "high": high}


def odd(table: pd.DataFrame) -> pd.DataFrame:
    """The table with two points of one prompt each and two imported ones."""
    more = []
    alone = {"mean": 1.0, "low": 1.0, "high": 1.0, "interval": "single"}
    for method, title, budget in (("lagkv", "LagKV", 0.18), ("tova", "TOVA", 0.3)):
        more.append(row(method, title, "eviction", budget, "niah", 1, resident=FULL * budget, **alone))
    for budget in (0.2, 0.4):
        more.append(row("h2o", "H2O", "eviction", budget, "niah", 100, resident=FULL * budget, mean=0.3 + budget, low=0.2 + budget, high=0.4 + budget,
                        source="imported", run=f"imported-{budget}"))  # fmt: skip
    return pd.concat([table, pd.DataFrame(more)], ignore_index=True)


def samples(seed: int = 0) -> pd.DataFrame:
    """Needle samples: three prompts in each cell of five lengths and six depths; the last cell of one method is missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for method, title, budget, keeps in (("full", "Full cache", 1.0, 1.6), ("snapkv", "SnapKV", 0.25, 0.9), ("lagkv", "LagKV", 0.25, 0.8),
                                         ("streamingllm", "StreamingLLM", 0.25, 0.2), ("kivi", "KIVI", 1.0, 1.4)):  # fmt: skip
        for length in (256, 512, 1024, 2048, 4096):
            for depth in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
                recent = max(0.0, depth - 0.7) * 3 if method == "streamingllm" else 0.3 * depth
                chance = min(1.0, keeps + recent - 0.00012 * length)
                line = {"method": method, "title": title, "budget": budget, "task": "niah", "length": length, "depth": depth}
                if (method, length, depth) != ("lagkv", 4096, 1.0):
                    rows += [line | {"score": float(rng.random() < chance), "sample": i} for i in range(3)]
    return pd.DataFrame(rows)


def bytes_by_part() -> pd.DataFrame:
    held = {
        ("full", "Full cache"): {"raw": 467, "positions": 4}, ("snapkv", "SnapKV, 25 % kept"): {"raw": 117, "positions": 8},
        ("kivi", "KIVI, 2 bits"): {"codes": 52, "scales": 26, "window": 48, "positions": 4}, ("quest", "Quest"): {"raw": 467, "index": 29, "positions": 4},
        ("keydiff+kivi", "KeyDiff + KIVI, 25 % kept"): {"codes": 13, "scales": 7, "window": 48, "positions": 8},
    }  # fmt: skip
    found = [(method, title, part, count * 1024, FULL) for (method, title), parts in held.items() for part, count in parts.items()]
    return pd.DataFrame(found, columns=["method", "title", "part", "bytes", "full"])


def curves(samples: int = 1, seed: int = 0) -> pd.DataFrame:
    """KL and agreement per step of four methods; the curve of one never differs."""
    rng = np.random.default_rng(seed)
    rows = []
    for method, title, axis, loss, first in (("kivi", "KIVI", "quantization", 0.02, 99), ("lagkv", "LagKV", "eviction", 0.12, 21),
                                             ("snapkv", "SnapKV", "eviction", 0.25, 9), ("streamingllm", "StreamingLLM", "eviction", 0.7, 2)):  # fmt: skip
        for sample in range(samples):
            begin = max(0, first + int(rng.integers(-2, 3))) if samples > 1 else first
            for step in range(32):
                kl = float(rng.gamma(1.2, loss * (2.5 if step >= begin else 0.3)))
                same = step < begin or (step != begin and rng.random() > 0.6)
                rows.append({"method": method, "title": title, "axis": axis, "sample": sample, "step": step, "kl": kl, "top1": float(same)})
    return pd.DataFrame(rows)
