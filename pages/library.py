"""Library: all runs this session may see; find, compare, tag, share, delete, take away and bring in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import streamlit as st

from kvlab import catalog
from kvlab.catalog import Entry
from kvlab.ui import access, library
from kvlab.ui import library_view as view
from kvlab.ui.export import export_row
from kvlab.ui.framed import framed
from kvlab.ui.head import title_block
from kvlab.ui.library import Wanted
from kvlab.ui.service import service

framed()

EACH = 40
"""Runs on one page of the list."""
KEEP: dict[str, Any] = {"persist_state": "session"}  # going to another page and back loses nothing
WHOSE = {True: "Your list: shipped, made here, opened by link, shared", False: "Every run of this machine, and the shipped ones"}


@st.cache_resource(max_entries=4, show_spinner=False)
def known(folder: str) -> dict[tuple[str, int], Entry]:
    """What this server read of its runs so far."""
    return {}


def bar(entries: Sequence[Entry]) -> tuple[str, Wanted]:
    """The filters; each is in the address. Words of runs go into select boxes only, which show them as they are."""
    titles = {entry.method: entry.title for entry in entries}
    with st.container(key="library-bar", horizontal=True, vertical_alignment="bottom"):
        linked("lib_find", None)
        words = st.text_input("Find", key="lib_find", placeholder="in prompts, answers, notes", max_chars=200, width=230, **KEEP).strip()
        methods = several("Method", "lib_method", sorted(titles, key=titles.get), 190, format_func=lambda method: titles.get(method, method))
        models = several("Model", "lib_model", sorted({entry.model for entry in entries}), 140)
        states = several("Status", "lib_status", ["done", "partial", "failed"], 120)
        tags = several("Tag", "lib_tag", sorted({tag for entry in entries for tag in entry.tags}), 130)
        linked("lib_from", library.SOURCES)
        source = st.segmented_control("From", list(library.SOURCES), key="lib_from", format_func=library.SOURCES.get, required=True, **KEEP)
        linked("lib_order", library.ORDERS)
        order = st.selectbox("Order", list(library.ORDERS), key="lib_order", format_func=lambda key: library.ORDERS[key][0], width=210, **KEEP)
    for key, value in (("lib_find", words), ("lib_from", source), ("lib_order", order)):
        publish(key, [value] if value and value not in ("all", "newest") else [])
    return words, Wanted(methods, models, states, tags, source, order)


def linked(key: str, options: Collection[str] | None) -> None:
    """The value of a filter before its widget: the session's, else the link's, else the first option; one that is no option any more is none."""
    value = st.session_state.get(key, st.query_params.get(key, ""))
    st.session_state[key] = value if options is None or value in options else next(iter(options))


def several(label: str, key: str, options: list[str], width: int, **more: Any) -> list[str]:
    """A filter of which several may be chosen, any where none is."""
    asked = st.session_state.get(key, st.query_params.get_all(key))
    st.session_state[key] = [value for value in asked if value in options]
    chosen = st.multiselect(label, options, key=key, placeholder="any", width=width, **KEEP, **more)
    publish(key, chosen)
    return chosen


def publish(key: str, values: Sequence[str]) -> None:
    """Put a filter into the address, or take it out."""
    if values:
        st.query_params[key] = list(values)
    else:
        st.query_params.pop(key, None)


def found(entries: Sequence[Entry], words: str, wanted: Wanted) -> list[Entry]:
    """What the filters leave. Words are sought in prompts and answers through the index, in tags and notes here."""
    if words:
        ids, sought = catalog.saying(service().store, words), words.casefold()
        entries = [entry for entry in entries if entry.id in ids or sought in entry.note.casefold() or any(sought in tag.casefold() for tag in entry.tags)]
    return library.choose(entries, wanted)


def clear() -> None:
    for key in ("lib_find", "lib_method", "lib_model", "lib_status", "lib_tag", "lib_from"):
        st.session_state.pop(key, None)
        st.query_params.pop(key, None)


def page() -> None:
    store = service().store
    st.html(view.STYLE)
    rights = access.rights(store)
    entries = [entry for entry in catalog.entries(store, known(str(store.folder))) if rights.sees(entry)]
    head = st.container(key="head", horizontal=True, vertical_alignment="bottom")
    view.messages()
    if not entries:
        with head:
            title_block("No run is stored yet", [("Make one on the page Run, or import a bundle; it appears here.", False)], WHOSE[access.several()])
            with st.popover("Import", key="library-import"):
                view.bring(store)
        return st.html('<a class="kv-act kv-link" href="run">Make a run</a>', width="content")
    words, wanted = bar(entries)
    shown = found(entries, words, wanted)
    chosen = [entry for entry in entries if entry.id in view.picked()]
    with head:
        title, look, figures = library.finding(shown) if shown else ("No run matches", [("Fewer words or filters find more.", False)], [])
        title_block(title, look, WHOSE[access.several()], figures=figures)
        with st.popover("Import", key="library-import"):
            view.bring(store)
        filters = {"find": words, **vars(wanted)}
        export_row("library", "Runs of the library", tables={"Runs": lambda: library.table(shown)}, runs=[entry.id for entry in chosen], settings=filters)
    view.actions(chosen, rights, store)
    if not shown:
        return st.button("Clear the filters", key="library-unfilter", on_click=clear)
    pages = library.pages(len(shown), EACH)
    number = min(pages, st.session_state.get("library-page") or 1)
    view.rows(shown[EACH * (number - 1) : EACH * number], rights)
    if pages > 1:
        st.pagination(pages, key="library-page")


page()
