"""What the papers say of themselves: `data/claims.csv`, one headline figure a row. Nothing in it was measured by kvlab.

`score` and `baseline_score` stand as the source has them ("90", "3-4"), `bound` says how they are meant ("up to", "about"), `source` is the
confidence mark of the card the row was taken from ([abs] abstract, [code] authors' code or data, [readme], [figure], [3rd] somebody else's
account, [own] from memory), `card` its file and heading.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from kvlab.registry import registry

FILE = Path(__file__).parent.parent / "data" / "claims.csv"
COLUMNS = ("system", "paper", "year", "model", "task", "setting", "metric", "better", "bound", "score", "unit", "baseline", "baseline_score", "source", "card")
BOUNDS = ("", "up to", "about", "more than", "less than", "at least", "at most")
UNITS = ("", "%", "x", "points", "bits", "GB", "ms", "s")
CARDS = ("eviction.md", "head_merge_retrieval.md", "quantization.md", "lowrank_channel.md", "layers_system_eval.md")

MARKS = {
    "abs": "abstract", "abstract": "abstract", "readme": "authors' readme", "code": "authors' code", "repo": "authors' repository", "figure": "authors' figure",
    "paper": "the paper's text",
    "3rd": "somebody else's account", "other": "somebody else's account", "sec": "a summary of the paper", "own": "from memory, not checked",
}  # fmt: skip
"""First word of a confidence mark -> its plain words."""

LISTED = {
    "lagkv": "LagKV", "kvzip": "KVzip", "qfilters": "Q-Filters", "roco": "RoCo", "scope": "SCOPE", "dynamickv": "DynamicKV", "graphkv": "GraphKV",
    "windowkv": "WindowKV", "prefixkv": "PrefixKV", "adore": "ADORE", "spatten": "SpAtten", "kvcrush": "KVCrush", "fastkv": "FastKV",
    "headkv": "HeadKV", "razorattention": "RazorAttention", "kvmerger": "KVMerger", "ems": "EMS", "less": "LESS", "mergear": "MergeAR",
    "clusterkv": "ClusterKV", "a2ats": "A2ATS", "hata": "HATA", "magicpig": "MagicPIG", "actqkv": "ActQKV", "ets": "ETS",
    "kivi": "KIVI", "mikv": "MiKV", "rotatekv": "RotateKV", "resq": "ResQ", "aquakv": "AQUA-KV", "cq": "CQ", "bfp": "BFP with K-sort", "ostquant": "OSTQuant",
    "vcllm": "VcLLM", "quantizedpruning": "Quantized pruning", "mustafar": "Mustafar", "csr": "CSR",
    "think": "ThinK", "matryoshkakv": "MatryoshkaKV", "cskv": "CSKV", "palu": "Palu", "eigenattention": "Eigen Attention", "xkv": "xKV", "elitekv": "EliteKV",
    "clover": "CLOVER", "cla": "CLA", "mlkv": "MLKV", "kvsharer": "KVSharer", "lckv": "LCKV", "tpa": "TPA", "kdgqa": "KDGQA", "kvt": "Key-Value Transformer",
    "kvrunahead": "KV-Runahead", "kvprediction": "KV Prediction", "turborag": "TurboRAG", "freecache": "FreeCache", "leanattention": "LeanAttention",
    "scbench": "SCBench", "streamingllm": "StreamingLLM", "h2o": "H2O", "tova": "TOVA", "snapkv": "SnapKV", "pyramidkv": "PyramidKV", "adakv": "Ada-KV",
    "expectedattention": "Expected Attention", "keydiff": "KeyDiff", "knorm": "Knorm", "random": "Random", "quest": "Quest", "duoattention": "DuoAttention",
    "cam": "CaM", "d2o": "D2O", "infllm": "InfLLM", "kvquant": "KVQuant", "zipcache": "ZipCache", "gear": "GEAR", "quarot": "QuaRot, KV part",
    "quantizedcache": "transformers' QuantizedCache", "fp8": "FP8", "turboquant": "TurboQuant", "mla": "MLA", "shadowkv": "ShadowKV", "lorc": "LoRC",
    "svdq": "SVDq",
}  # fmt: skip
"""Every published system kvlab speaks of, built or not yet: short name -> title. A system that is built has its file's name."""


def load(path: Path | str = FILE) -> pd.DataFrame:
    """The claims, checked, as text but for `year`, with the numbers in `low`, `high` (equal but for ranges) and `base` (NaN: none stated).

    Raises ValueError naming the first line that cannot be used and why.
    """
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(rows.columns) != COLUMNS:
        raise ValueError(f"{Path(path).name} needs the columns {', '.join(COLUMNS)}, in this order.")
    for line, row in enumerate(rows.to_dict("records"), start=2):
        if problem := _problem(row):
            raise ValueError(f"{Path(path).name}, line {line}: {problem}")
    rows["year"] = rows["year"].astype(int)
    rows[["low", "high"]] = [number(text) for text in rows["score"]]
    rows["base"] = [number(text)[0] if text else float("nan") for text in rows["baseline_score"]]
    return rows


def number(text: str) -> tuple[float, float]:
    """A score as it is written, "2.6" or the range "3-4", as (low, high). Raises ValueError otherwise."""
    found = re.fullmatch(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?", text)
    if not found:
        raise ValueError(f"{text!r} is no number and no range such as 3-4.")
    low = float(found[1])
    return low, float(found[2]) if found[2] else low


def title(system: str) -> str:
    """How a system is called on screen."""
    return registry()[system].title if system in registry() else LISTED.get(system, system)


def mark(source: str) -> str:
    """The plain words of a confidence mark: "[abs v1]" -> "abstract"."""
    return MARKS[re.split(r"[ ,:]", source.strip("[]").lower())[0]]


def _problem(row: dict[str, str]) -> str | None:
    if row["system"] not in LISTED and row["system"] not in registry():
        return f"there is no system {row['system']!r}."
    if row["better"] not in ("higher", "lower"):
        return f"better is higher or lower, not {row['better']!r}."
    if row["bound"] not in BOUNDS:
        return f"bound is one of {', '.join(b or 'nothing' for b in BOUNDS)}, not {row['bound']!r}."
    if row["unit"] not in UNITS:
        return f"unit is one of {', '.join(u or 'nothing' for u in UNITS)}, not {row['unit']!r}."
    if not row["year"].isdigit() or not row["metric"] or not row["paper"]:
        return "year, metric and paper must be given."
    if bool(row["baseline"]) != bool(row["baseline_score"]):
        return "a baseline needs a name and a score, or neither."
    if row["card"].split(": ")[0] not in CARDS or ": " not in row["card"]:
        return f"card names a file and a heading, not {row['card']!r}."
    try:
        number(row["score"])
        if row["baseline_score"]:
            number(row["baseline_score"])
        mark(row["source"])
    except ValueError as error:
        return str(error)
    except KeyError:
        return f"{row['source']!r} is no confidence mark."
    return None
