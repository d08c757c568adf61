"""The papers' claims: every row is readable, names a known system and says where it stands."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kvlab.claims import BOUNDS, FILE, LISTED, load, mark, number, title
from kvlab.registry import registry


def test_every_claim_is_of_a_known_system_and_has_a_number() -> None:
    rows = load()
    assert len(rows) >= 200 and rows["system"].nunique() >= 60
    assert set(rows["system"]) <= set(LISTED) | set(registry())
    assert (rows["low"] > 0).all() and (rows["high"] >= rows["low"]).all()
    assert set(rows["bound"]) <= set(BOUNDS)
    assert rows["source"].map(mark).notna().all()
    assert not rows.duplicated(["system", "paper", "model", "task", "setting", "metric"]).any()


def test_some_claims_as_the_cards_have_them() -> None:
    rows = load()
    kivi = rows[(rows["system"] == "kivi") & (rows["model"] == "Mistral-7B-Instruct-v0.2") & rows["setting"].str.startswith("2 bits")]
    assert kivi[["low", "base"]].to_numpy().tolist() == [[42.43, 43.54], [80.83, 89.33]]
    assert rows[rows["system"] == "snapkv"]["paper"].unique().tolist() == ["arXiv 2412.14838"]  # SnapKV as DynamicKV's authors measured it
    kvzip = rows[(rows["system"] == "kvzip") & (rows["unit"] == "x")].iloc[0]
    assert (kvzip["low"], kvzip["high"]) == (3, 4) and math.isnan(kvzip["base"])


@pytest.mark.parametrize("text, expected", [("2.6", (2.6, 2.6)), (".43", (0.43, 0.43)), ("2.35-3.47", (2.35, 3.47))])
def test_numbers_as_they_are_written(text: str, expected: tuple[float, float]) -> None:
    assert number(text) == expected


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("29,x,,,[own]", "many,x,,,[own]", "no number"), ("h2o,arXiv 2306", "h3o,arXiv 2306", "no system 'h3o'"),
        ("29,x,,,[own]", "29,x,,7,[own]", "a baseline needs"),
        ("29,x,,,[own]", "29,x,,,[heard]", "no confidence mark"),
        ("higher,up to,29", "more,up to,29", "better is"), ("higher,up to,29", "higher,upto,29", "bound is"),
        ("eviction.md: H2O", "H2O", "card names"), ("29,x,", "29,fold,", "unit is"), ("system,paper", "name,paper", "needs the columns"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    lines = FILE.read_text().splitlines()[:2]
    changed = "\n".join(lines).replace(old, new, 1)
    assert changed != "\n".join(lines)
    (tmp_path / "claims.csv").write_text(changed + "\n")
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "claims.csv")


def test_titles_come_from_the_method_when_there_is_one() -> None:
    assert title("snapkv") == registry()["snapkv"].title and title("leanattention") == "LeanAttention"
