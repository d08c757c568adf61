"""The Library page's component, what can be done with the chosen runs, and the import of bundles."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab import bundle, catalog
from kvlab.catalog import Entry
from kvlab.runs import SHARED, RunStore
from kvlab.ui import access, library, report
from kvlab.ui.access import Rights
from kvlab.ui.form import problem
from kvlab.ui.palette import css

WEB = Path(__file__).parent / "web"
LARGEST = 64
"""Megabytes of a bundle that may be uploaded."""
UNPACKED = 1024
"""Megabytes that it may have when unpacked."""
MOST = 6
"""Runs side by side on Compare."""
STYLE = """<style>
.st-key-library-bar { align-items: end; gap: 12px } .st-key-library-bar label p { font-size: 12.5px; color: var(--small) }
.st-key-library-do { min-height: 42px; border-top: 1px solid var(--hairline); padding-top: 8px }
.kv-chosen { font-size: 13.5px; color: var(--text); margin: 0 } .kv-chosen b { color: var(--ink) }
a.kv-act { display: inline-block; border-radius: 7px; border: 1px solid var(--edge); background: var(--panel); color: var(--ink) !important }
a.kv-act { font-size: 14px; font-weight: 400; line-height: 22px; padding: 7px 12px; text-decoration: none !important; white-space: nowrap }
a.kv-act:hover { border-color: var(--ink) } a.kv-act:focus-visible { outline: 2px solid var(--ink); outline-offset: 2px }
</style>"""


@functools.cache
def _component() -> Any:
    return st.components.v2.component(
        "kvlab_library", html="", css=css(":host") + (WEB / "library.css").read_text(), js=(WEB / "library.js").read_text(), isolate_styles=True
    )


def picked() -> list[str]:
    """Ids of the ticked runs."""
    return st.session_state.setdefault("library_picked", [])


def pick(runs: Sequence[str]) -> None:
    """Tick exactly these, from Python."""
    st.session_state["library_picked"] = list(runs)
    st.session_state["library_epoch"] = st.session_state.get("library_epoch", 0) + 1


def rows(entries: Sequence[Entry], rights: Rights) -> None:
    """The list itself."""

    def ticked() -> None:
        st.session_state["library_picked"] = list(st.session_state["library-list"].picked or [])

    data = {"epoch": st.session_state.setdefault("library_epoch", 0), "picked": picked(), "rows": [library.row(entry, rights) for entry in entries]}
    _component()(data=data, key="library-list", on_picked_change=ticked)


def told(sentence: str) -> None:
    """Remember what was done, for the next drawing of the page."""
    st.session_state["library_said"] = sentence


def done(act: Callable[[], str]) -> None:
    """Do it in a callback; what cannot be done is said in its place."""
    try:
        told(act())
    except ValueError as error:
        st.session_state["library_problem"] = str(error)


def messages() -> None:
    """What was just done, or why it was not."""
    if said := st.session_state.pop("library_said", ""):
        st.html(f'<p class="kv-problem" role="status">{escape(said)}</p>')
    if said := st.session_state.pop("library_problem", ""):
        problem(said)


def actions(chosen: Sequence[Entry], rights: Rights, store: RunStore) -> None:
    """One row: what can be done with the ticked runs."""
    with st.container(key="library-do", horizontal=True, vertical_alignment="center"):
        if not chosen:
            st.html('<p class="kv-chosen">Tick runs to compare, tag, annotate, share, export or delete them.</p>', width="content")
            return
        st.html(f'<p class="kv-chosen"><b>{len(chosen)} ticked</b></p>', width="content")
        compare(chosen)
        mine, ids = [entry for entry in chosen if rights.changes(entry)], [entry.id for entry in chosen]
        with st.popover("Tag", key="library-tags"):
            tags(mine, len(chosen), store)
        with st.popover("Note", key="library-notes"):
            note(chosen, mine, store)
        if rights.listed is not None:
            share(mine, store)
        words = "Bundle of 1 run" if len(ids) == 1 else f"Bundle of {len(ids)} runs"
        st.download_button(words, lambda: report.bundle_bytes(store, ids), "kvlab-runs.zip", "application/zip", key="library-bundle", on_click="ignore")
        with st.popover("Delete", key="library-delete"):
            delete(chosen, mine, store)
        st.button("Untick all", key="library-clear", type="tertiary", on_click=pick, args=([],))


def compare(chosen: Sequence[Entry]) -> None:
    """A link to Compare, which takes two to six runs."""
    if 2 <= len(chosen) <= MOST:
        ids = ",".join(entry.id for entry in chosen)
        st.html(f'<a class="kv-act kv-link" href="compare?cmp={ids}">Compare {len(chosen)}</a>', width="content")
    else:
        st.html(f'<p class="kv-small">Compare takes two to {MOST} runs.</p>', width="content")


def only_mine(mine: Sequence[Entry], count: int, what: str) -> bool:
    """Say which of the ticked runs an act leaves out. False when it leaves out all."""
    if left := count - len(mine):
        stay = "this one stays as it is" if count == 1 else "these stay as they are" if left == count else f"{left} of them stay as they are"
        st.html(f'<p class="kv-small">Shipped runs and those of other people take no {what}; {stay}.</p>')
    return bool(mine)


def tags(mine: Sequence[Entry], count: int, store: RunStore) -> None:
    """Put a tag on, take tags off."""
    if not only_mine(mine, count, "tags"):
        return
    names = sorted({tag for entry in mine for tag in entry.tags if tag != SHARED})

    def put() -> str:
        tag = st.session_state["library-tag"].strip()
        if tag == SHARED:
            raise ValueError(f"\u201c{SHARED}\u201d is the tag that shows a run to everybody. Use Share for it.")
        for entry in mine:
            store.tag(entry.id, tag)
        return f"Tagged {_count(mine)} \u201c{tag}\u201d."

    def take(tag: str) -> str:
        for entry in mine:
            store.untag(entry.id, tag)
        return f"Took \u201c{tag}\u201d off {_count(mine)}."

    st.text_input("New tag", key="library-tag", max_chars=64, help="Letters, digits, - _ and .")
    st.button("Put on", key="library-tag-put", on_click=done, args=(put,))
    for i, tag in enumerate(names):
        st.html(f'<p class="kv-small">On some of them: <b>{escape(tag)}</b></p>')
        st.button("Take off", key=f"library-tag-take-{i}", on_click=done, args=(functools.partial(take, tag),))


def note(chosen: Sequence[Entry], mine: Sequence[Entry], store: RunStore) -> None:
    """A note belongs to one run."""
    if len(chosen) > 1:
        st.html('<p class="kv-small">A note belongs to one run. Tick one.</p>')
        return
    if not only_mine(mine, 1, "notes"):
        return
    run = mine[0].id

    def write() -> str:
        catalog.note(store, run, text := st.session_state[f"library-note-{run}"])
        return "The note is kept." if text.strip() else "The note is gone."

    st.text_area("Note", value=mine[0].note, key=f"library-note-{run}", max_chars=catalog.LONGEST_NOTE, height=120)
    st.button("Keep the note", key="library-note-keep", on_click=done, args=(write,))


def share(mine: Sequence[Entry], store: RunStore) -> None:
    """Into everybody's list, or out of it again."""
    hidden = [entry for entry in mine if SHARED not in entry.tags]

    def put() -> str:
        for entry in hidden:
            store.tag(entry.id, SHARED)
        return f"{_count(hidden).capitalize()} shared: everybody who uses this server finds prompt and answer in the list."

    def take() -> str:
        for entry in mine:
            store.untag(entry.id, SHARED)
        return f"{_count(mine).capitalize()} not shared any more. Whoever opened it keeps it in the list."

    if hidden or not mine:
        st.button("Share", key="library-share", on_click=done, args=(put,), disabled=not hidden, help="Puts them into everybody's list")
    else:
        st.button("Stop sharing", key="library-unshare", on_click=done, args=(take,))


def delete(chosen: Sequence[Entry], mine: Sequence[Entry], store: RunStore) -> None:
    """Ask first."""
    if shipped := sum(entry.shipped for entry in chosen):
        what = f"{shipped} of them ship{'s' * (shipped == 1)} with kvlab and cannot be deleted." if len(chosen) > shipped else "Shipped runs cannot be deleted."
        st.html(f'<p class="kv-small">{what}</p>')
    if foreign := len(chosen) - shipped - len(mine):
        st.html(f'<p class="kv-small">{foreign} belong{"s" * (foreign == 1)} to somebody else and cannot be deleted here.</p>')
    if not mine:
        return

    def go() -> str:
        visitor = access.me()
        for entry in mine:
            if catalog.leave(store, visitor, entry.id):
                store.delete(entry.id)
        pick([])
        return f"{_count(mine).capitalize()} deleted."

    st.html(f'<p class="kv-chosen">Delete {_count(mine)} for good? {"Its" if len(mine) == 1 else "Their"} trace, tags and note go too.</p>')
    st.button(f"Delete {_count(mine)}", key="library-delete-go", type="primary", on_click=done, args=(go,))


def _count(entries: Sequence[Entry]) -> str:
    return "1 run" if len(entries) == 1 else f"{len(entries)} runs"


def bring(store: RunStore) -> None:
    """Import of a bundle: size and content are checked here, whatever the browser said."""
    st.html('<p class="kv-small">A bundle that kvlab exported, .zip. Its runs come into your list; what is here already stays as it is.</p>')
    file = st.file_uploader("Bundle", type=["zip"], key="library-file", max_upload_size=LARGEST)
    if file is None:
        return
    data = file.getvalue()
    if st.session_state.get("library_file") == (key := hashlib.sha256(data).hexdigest()):
        if sentence := st.session_state.get("library_refused"):
            problem(sentence)
        return
    st.session_state.update({"library_file": key, "library_refused": ""})
    try:
        runs = imported(store, data)
    except ValueError as error:
        st.session_state["library_refused"] = str(error)
        return problem(str(error))
    told(f"{'1 run is' if len(runs) == 1 else f'{len(runs)} runs are'} in your list, ticked.")
    pick(runs)
    st.rerun()


def imported(store: RunStore, data: bytes) -> list[str]:
    """Ids of the runs of a bundle, now stored. Raises ValueError with a sentence."""
    if len(data) > LARGEST * 10**6:
        raise ValueError(f"The file has {len(data):,} bytes; at most {LARGEST:,} MB are read. Export fewer runs, or import it from the command line.")
    with tempfile.TemporaryDirectory() as spare:
        (path := Path(spare) / "The file").write_bytes(data)
        runs = bundle.load(store, path, access.me(), UNPACKED * 10**6, with_rows=False)
    if visitor := access.me():
        catalog.remember(store, visitor, runs)
    return runs
