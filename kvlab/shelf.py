"""Models in memory: few, the one used last stays longest. Loaded by worker threads only. Also: is there room for a run?"""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from kvlab.geometry import Geometry
from kvlab.models import LM, load


class Shelf:
    """Holds at most `size` models per device."""

    def __init__(self, size: int = 1, load: Callable[..., LM] = load) -> None:
        self.size, self._load = size, load
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, str], LM] = OrderedDict()

    def holds(self, name: str, device: str) -> bool:
        """Whether `get` would return at once."""
        return (name, device) in self._models

    def get(self, name: str, device: str) -> LM:
        """The model, loaded now if it is not here; the one unused for longest goes first. Raises ValueError with a sentence."""
        with self._lock:
            if (name, device) not in self._models:
                self._make_room(device)
                self._models[name, device] = self._load(name, device=device)
            self._models.move_to_end((name, device))
            return self._models[name, device]

    def _make_room(self, device: str) -> None:
        mine = [key for key in self._models if key[1] == device]
        for key in mine[: max(0, len(mine) - self.size + 1)]:
            del self._models[key]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def free_bytes(device: str) -> int:
    """Memory that a run may take on `device`."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if info.exists():  # counts what the file cache would give back, sysconf does not
        line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES")


def admit(geometry: Geometry, tokens: int, steps: int, attention: bool, free: int) -> None:
    """Refuse, with both numbers, a run that cannot fit into `free` bytes: the whole cache at the end of the prompt, and the attention kept.

    `tokens` seen in all, `steps` of them written. Every method reads the prompt in full before it acts, so the full cache is the floor.
    """
    cache = geometry.full_bytes(tokens)
    rows = 2 * 2 * steps * geometry.layers * geometry.kv_heads * tokens if attention else 0  # float16, this run and the full cache
    if cache + rows > free:
        kept = f" and {_size(rows)} for the attention to look at" if rows else ""
        raise ValueError(f"This run needs {_size(cache)} for its full cache{kept}; {_size(free)} are free. Shorten the prompt or write fewer tokens.")


def _size(count: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1024:.0f} KiB"
