"""Pictures of the parts of a page, made in the browser: twice the size, light on a dark page, with their footer, and with no request to anywhere else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import settled
from fake_runs import fake
from PIL import Image

from kvlab.runs import RunStore

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("scheme", ["dark"], indirect=True)]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def runs(runs_home: Path) -> list[str]:
    """Two made runs on one prompt in the server's store."""
    store, made = RunStore(runs_home / "runs"), []
    for number, kind in enumerate(("evict", "same"), 1):
        run = fake(kind)
        run.manifest.update(id=f"{0x91C0 + number:016x}", title=f"Pictured {number}")
        made.append(store.save(run.manifest, run.trace))
    return made


def taken(page: Any, name: str, kind: str) -> tuple[str, bytes]:
    """File name and bytes of one picture, by the keyboard alone."""
    page.get_by_role("button", name=f"Picture of this part: {name}").focus()
    page.keyboard.press("Enter")
    with page.expect_download() as waiting:
        page.keyboard.press("Tab")
        if kind == "SVG":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def twice(raw: bytes, wide: float) -> np.ndarray:
    """The pixels [H, W, 3] of a PNG that must be twice as wide as its card, and light though the page is dark."""
    image = Image.open(io.BytesIO(raw))
    image.verify()
    pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert image.format == "PNG" and pixels.shape[1] == 2 * np.ceil(wide)
    assert (pixels.min(-1) > 240).mean() > 0.5, "the ground is light"
    return pixels


def text_of(raw: bytes) -> str:
    return " ".join("".join(node.itertext()) for node in ElementTree.fromstring(raw).iter(f"{SVG}text"))


def width(page: Any, selector: str) -> float:
    return page.locator(selector).first.bounding_box()["width"]


def test_parts_of_look_inside(page: Any, server: str, runs: list[str]) -> None:
    page.goto(f"{server}/inside?run={runs[0]}&step=0", wait_until="commit")
    page.locator(".inside .tok").first.wait_for()
    settled(page)
    before = page.locator(".probes i").first.evaluate("node => getComputedStyle(node).color")
    name, raw = taken(page, "kept entries", "PNG")
    assert name == f"kvlab-kept-entries-{runs[0]}.png"
    pixels = twice(raw, width(page, ".card.map")).astype(int)
    for colour in ((36, 104, 176), (188, 69, 20)):  # the light blue of what is held, the orange of what is lost
        assert (np.abs(pixels - colour).max(-1) < 12).sum() > 50, f"{colour} is drawn"
    card = page.locator(".card.map").bounding_box()["height"]
    footer = pixels[2 * int(card) + 4 :]
    assert len(footer) >= 60 and (footer.max(-1) < 110).sum() > 300, "under the card there are words"
    assert page.locator(".probes i").first.evaluate("node => getComputedStyle(node).color") == before, "the page itself stays dark"
    for part in ("tokens", "heads"):
        name, raw = taken(page, part, "SVG")
        said = text_of(raw)
        title = page.locator("h1").first.inner_text()
        assert name.endswith(f"{runs[0]}.svg") and title in said and runs[0] in said and "step 0" in said, said[-400:]
        assert "http" not in raw.decode().replace("http://www.w3.org/2000/svg", ""), "nothing in it is fetched"
    assert "60 %" in said or "missing attention" in said
    twice(taken(page, "tokens", "PNG")[1], width(page, ".card.strip"))


def test_parts_of_compare(page: Any, server: str, runs: list[str]) -> None:
    page.goto(f"{server}/compare?cmp={','.join(runs)}&step=1", wait_until="commit")
    page.locator(".compare .tok").first.wait_for()
    settled(page)
    said = text_of(taken(page, "tracks", "SVG")[1])
    assert "Pictured 2" in said and runs[1] in said and "step 1" in said
    twice(taken(page, "Pictured 1", "PNG")[1], width(page, ".column-card"))


def test_a_lesson_and_a_toy(page: Any, server: str) -> None:
    page.goto(f"{server}/learn?lesson=sinks", wait_until="commit")
    page.locator(".lesson h1").wait_for()
    settled(page)
    title = page.locator(".lesson h1").inner_text()
    name, raw = taken(page, "lesson", "SVG")
    assert name.startswith("kvlab-lesson-") and title in text_of(raw)
    page.goto(f"{server}/methods?m=snapkv", wait_until="commit")
    page.locator("canvas.entries").wait_for()
    settled(page)
    name, raw = taken(page, "toy", "PNG")
    assert name.startswith("kvlab-toy-snapkv")
    twice(raw, width(page, ".card.top"))
