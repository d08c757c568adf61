"""Natural text that ships with Python: the standard library's docstrings.

The text depends on the Python version only. Files are split into a training
part and a held-out part by a hash of their path inside the library, so no
docstring of a held-out file is ever trained on.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
from functools import lru_cache
from pathlib import Path

from kvlab.bundled.words import HELD_OUT

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo"}
_MIN_CHARS = 120
_HELD_OUT_WORDS = {word.lower() for word in HELD_OUT.every()}


def is_held_out(relative_path: str) -> bool:
    """True for one file in twelve, chosen by a hash of its path inside the library."""
    return hashlib.sha256(relative_path.encode()).digest()[0] % 12 == 0


def _docstrings(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                found.append(inspect.cleandoc(text))
    return found


@lru_cache(maxsize=2)
def documents(held_out: bool) -> tuple[str, ...]:
    """Docstrings joined per file, ASCII only, files of less than 120 characters left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED & set(relative.parts) or is_held_out(relative.as_posix()) != held_out:
            continue
        try:
            pieces = _docstrings(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        if not held_out:  # held-out words must be new to the trained model
            pieces = [p for piece in pieces for p in piece.split("\n\n")]
            pieces = [p for p in pieces if _HELD_OUT_WORDS.isdisjoint(re.findall(r"\w+", p.lower()))]
        text = "\n\n".join(pieces).encode("ascii", "ignore").decode()
        if len(text) >= _MIN_CHARS:
            texts.append(text)
    return tuple(texts)
