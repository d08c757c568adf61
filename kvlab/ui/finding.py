"""The finding that opens the Look inside page: a title and a sentence, computed from one stored run and never claiming more than it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvlab.runs import StoredRun, failure
from kvlab.trace import NEVER, Trace
from kvlab.ui.inside import WANTED, View, first_difference, judged_of, missing, show, tops, unread

MOVED = 0.10
"""Attention one token must gain over the full cache before the sentence says that it went there."""

Words = tuple[tuple[str, bool], ...]
"""A sentence in pieces; the second part says whether a piece is a key word."""


@dataclass(frozen=True)
class Finding:
    """What a run shows: title, sentence, where to look, and the tokens the sentence names."""

    title: str
    sentence: Words
    view: View
    named: tuple[int, ...] = ()


def plain(sentence: Words) -> str:
    """The sentence without its marks."""
    return "".join(text for text, _ in sentence)


def setting(manifest: dict) -> str:
    """The title of a run that has no finding: its method and what it kept."""
    kept, asked = manifest["budget"]["realised"]["fraction"], manifest["budget"]["asked"]
    if asked is not None or kept < 0.995:
        return f"{manifest['title']}, {100 * kept:.0f} % of entries kept"
    return manifest["title"] if manifest["axis"] == "reference" else f"{manifest['title']}, every entry kept"


def finding(run: StoredRun) -> Finding:
    """The finding of a run, by what is stored: loss first, then what makes the method different, then how heads read."""
    t = run.trace
    if said := failure(run.manifest):
        return Finding("This run failed", ((said, False),), View())
    if not len(t.written):
        return Finding("Stopped before the first token", (("The prompt was not read to its end, so there is nothing to look into.", False),), View())
    if run.manifest["axis"] == "reference":
        return Finding("The full cache: every entry held", *_reading(t, 0))
    step = first_difference(t)
    if step is not None:
        return _difference(run, step)
    return _agreement(run) if t.top.size else Finding(setting(run.manifest), *_situation(run))


def _strongest(weights: np.ndarray) -> tuple[tuple[int, ...], float]:
    at = tuple(int(i) for i in np.unravel_index(int(weights.argmax()), weights.shape))
    return at, float(weights[at])


def _lost(t: Trace, step: int) -> np.ndarray:
    """[L, H, P] the full cache's attention to entries that had left this run."""
    return np.where(t.gone(step), t.full[step], 0) if t.full.size else np.zeros(t.left_at.shape, np.float32)


def _difference(run: StoredRun, step: int) -> Finding:
    t, m = run.trace, run.manifest
    lost = _lost(t, step)
    at, share = _strongest(lost)
    if share > WANTED:
        sentence, named = _loss(run, step, at, share)
        return Finding(f"{_count(run, lost)}, and the answer differs", sentence, View(step, *at), named)
    if t.read.size and t.full.size:
        at, share = _strongest(np.where(unread(t)[step], t.full[step], 0))
        if share > WANTED:
            layer, head, token = at
            said = ((f"At step {step} the full cache gives {_percent(share)} of head L{layer} · H{head} to ", False), (show(m["pieces"][token]), True),
                    (". This run holds that entry and did not read it.", False))  # fmt: skip
            return Finding("Held, not read: the answer differs", said, View(step, *at), (token,))
    theirs, mine = show(tops(run)[step]), show(m["pieces"][t.asked + step])
    said = (f"At step {step} the full cache writes ", False), (theirs, True), (" and this run writes ", False), (mine, True), (_changed(t), False)
    return Finding(f"A different token at step {step}, with every wanted entry held", said, _start(t, step))


def _changed(t: Trace) -> str:
    if t.bits.any():
        return ". Nothing it wanted is gone; the cells are lower. Look for small hills, not for holes."
    if (t.left_at == NEVER).all():
        return ". No entry is missing: what the cache holds is changed, not gone."
    if not t.full.size:
        return ". Rows of attention were not stored, so this page cannot say where it looked."
    return f". No entry that it gives more than {100 * WANTED:g} % is missing, so many small losses add up."


def _count(run: StoredRun, lost: np.ndarray) -> str:
    """How many wanted tokens are gone, and whether all of them were merged, in words."""
    where = np.nonzero(lost > WANTED)
    tokens, fate = np.unique(where[2]), "merged away" if (run.trace.merged_into[where] >= 0).all() else "gone"
    digits = all(run.manifest["pieces"][p].strip().isdigit() for p in tokens)
    noun = "digit" if digits else "token"
    return f"One wanted {noun} is {fate}" if len(tokens) == 1 else f"{len(tokens)} wanted {noun}s are {fate}"


def _loss(run: StoredRun, step: int, at: tuple[int, ...], share: float) -> tuple[Words, tuple[int, ...]]:
    """Who wanted what, when it left, and where its attention is now."""
    t, pieces = run.trace, run.manifest["pieces"]
    layer, head, token = at
    left, into = int(t.left_at[at]), int(t.merged_into[at])
    when = "after the prompt" if left == 0 else f"at step {left}"
    said = [("The full cache reads ", False), (_word(pieces[token]), True), (f" ({_percent(share)} of head L{layer} · H{head} at step {step}). ", False)]
    if into >= 0:
        return (*said, (f"That head merged the entry {when} into ", False), (_word(pieces[into]), True), (".", False)), (token, into)
    rank = int(t.rank[at])
    kept = judged_of(t, *at)
    because = f", at rank {rank} where the head kept {kept}" if rank > kept else ""  # a protected window may push out better ones
    said.append((f"That head dropped it {when}{because}", False))
    if t.attention.size:
        gained = t.attention[step, layer, head].astype(np.float32) - t.full[step, layer, head]
        other = int(gained.argmax())
        if gained[other] > MOVED:
            return (*said, ("; its attention now goes to ", False), (_word(pieces[other]), True), (".", False)), (token, other)
    return (*said, (".", False)), (token,)


def _agreement(run: StoredRun) -> Finding:
    """The same tokens as the full cache: say whether anything wanted went missing on the way."""
    t = run.trace
    same = "the same token" if len(t.written) == 1 else f"the same {len(t.written)} tokens"
    if t.full.size:
        step = int(np.argmax([_lost(t, s).max() for s in range(len(t.written))]))
        at, share = _strongest(_lost(t, step))
        if share > WANTED:
            sentence, named = _loss(run, step, at, share)
            return Finding(f"{_count(run, _lost(t, step))}, yet {same}", sentence, View(step, *at), named)
    special = _special(run)
    title = f"No loss that one prompt can show: {same}"
    if special or not t.full.size:
        return Finding(title, *(special or _reading(t, 0)))
    if (t.left_at == NEVER).all():
        return Finding(title, (("Every entry is held in full. Look at what a head reads, step by step.", False),), _start(t, 0))
    return Finding(title, (("The wanted entries survived in every head. Lower the budget until a hatched cell appears.", False),), _start(t, 0))


def _special(run: StoredRun) -> tuple[Words, View, tuple[int, ...]] | None:
    """Methods that keep every entry: lower cells or outlined ones are what there is to see."""
    t = run.trace
    if t.read.size:
        step = int(unread(t).sum((1, 2, 3)).argmax())
        return (("All bytes are still there. Outlined cells were held but ", False), ("not read", True), (" at this step.", False)), _start(t, step), ()
    if t.bits.any() and (t.left_at == NEVER).all():
        return (("Nothing is gone; the cells are lower. Look for small ", False), ("hills", True), (", not for holes.", False)), _start(t, 0), ()
    return None


def _situation(run: StoredRun) -> tuple[Words, View, tuple[int, ...]]:
    """No reference to compare with: what the kept entries alone show."""
    t = run.trace
    if special := _special(run):
        return special
    last = len(t.written) - 1
    held = t.held(last)
    counts = held.sum(-1)
    if held.any() and counts.min() and counts.max() >= 1.5 * counts.min() and (t.left_at != NEVER).any():
        times = f"{counts.max() / counts.min():.1f}".removesuffix(".0")
        words = f"Rows differ in length: the longest head keeps {times} times as many entries as the shortest, out of "
        return ((words, False), ("one total", True), (".", False)), View(0, *np.unravel_index(int(counts.argmax()), counts.shape)), ()
    first = np.flatnonzero(held.any((0, 1)))
    if len(first) and first[0] > t.prompt // 2:
        said = (("Everything kept lies at the ", False), ("end", True), (". A fact from the beginning has nowhere to survive.", False))
        return said, _start(t, 0), ()
    return _reading(t, 0)


def _reading(t: Trace, step: int) -> tuple[Words, View, tuple[int, ...]]:
    """How heads read: the sink, when most rows of this step look at the first token more than at any other."""
    if t.attention.size:
        sinks = float((t.attention[step].argmax(-1) == 0).mean())
        if sinks >= 0.5:
            rows = "Almost every row reads" if sinks >= 0.85 else f"{100 * sinks:.0f} % of the rows read most"
            said = ((f"{rows} the ", False), ("first token", True), (". It holds no meaning; it is where heads rest.", False))
            return said, _start(t, step), (0,)
    return (("Choose a head and step through the answer: darker cells are read more.", False),), _start(t, step), ()


def _start(t: Trace, step: int) -> View:
    """The head to begin with: the one that misses most, else the one that reads one token most."""
    lost = missing(t)
    if lost.size and lost[step].max() > 0:
        layer, head = np.unravel_index(int(lost[step].argmax()), lost[step].shape)
    elif t.attention.size:
        peaks = t.attention[step, ..., 1:].max(-1) if t.attention.shape[-1] > 1 else t.attention[step].max(-1)
        layer, head = np.unravel_index(int(peaks.argmax()), peaks.shape)
    else:
        layer = head = 0
    return View(step, int(layer), int(head))


def _word(piece: str) -> str:
    """A token in the sentence: signs need quotes to be seen as a word."""
    text = show(piece)
    return text if any(c.isalnum() for c in text) else f"“{text}”"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
