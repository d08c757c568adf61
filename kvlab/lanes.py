"""A lane of the Run page as work for the queue: get the model, run, store. No page code, so a script may use it as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kvlab.engine import Request, run
from kvlab.jobs import Job, Partial
from kvlab.runs import RunStore, manifest
from kvlab.shelf import Shelf, admit, free_bytes

HEAVY = ("kept", "pieces")
"""Fields of a manifest that a page of lanes does not need; they are in the stored run."""


@dataclass(frozen=True)
class Loading:
    """The event before the first token of a model that is not in memory yet."""

    model: str


def lane(shelf: Shelf, store: RunStore, model: str, request: Request, tokens: int, visitor: str = "") -> Callable[[Job, str], dict[str, Any]]:
    """The work of one lane over `tokens` positions in all, for `visitor`. Its result is the stored run's manifest without the long fields."""

    def work(job: Job, device: str) -> dict[str, Any]:
        if not shelf.holds(model, device):
            job.emit(Loading(model))
        try:
            lm = shelf.get(model, device)
            admit(lm.geometry, tokens, request.max_new_tokens, request.attention, free_bytes(device))
            result = run(lm, request, job.emit, job.stop)
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            raise ValueError("The device ran out of memory. Shorten the prompt, write fewer tokens, or read the prompt in smaller chunks.") from error
        said = manifest(lm, request, result)
        if result.tokens and not (result.status == "stopped" and _complete(store, said["id"])):
            store.save(said, result.trace, visitor)
        short = {key: value for key, value in said.items() if key not in HEAVY}
        if result.status == "stopped":
            raise Partial(short if result.tokens else None)
        return short

    return work


def _complete(store: RunStore, run: str) -> bool:
    """Whether the same run is stored in full: a part of it must not replace it."""
    try:
        return store.load(run).manifest["status"] == "done"
    except ValueError:
        return False
