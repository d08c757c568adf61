"""Who finds which runs. A run holds its prompt, and prompts are private.

A server for one person, one that listens on this machine only, is the default: all runs of its folder are that person's. A server for several
listens elsewhere, or was started with KVLAB_SHARED=1 (0 says the opposite; set 1 behind a proxy). There a browser is known by a random name in a
cookie, and its list holds the shipped runs, those it made, imported or opened by a link, and those that somebody shared. Sharing is the tag
`shared` on a run: it is put there by hand, never by an import, and is taken off again the same way. Only who made or imported a run may tag,
note, share or delete it. What came into the folder from the command line belongs to nobody here and is listed once it is shared
(`python -m kvlab runs tag ID shared`). A link with a run's id opens that run for whoever has the link: it is how a run is shown to one person.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from kvlab import catalog
from kvlab.catalog import Entry
from kvlab.runs import SHARED, RunStore

COOKIE = "kvlab"
SET = f"""
export default function ({{ data }}) {{
  if (!document.cookie.includes("{COOKIE}=")) document.cookie = `{COOKIE}=${{data}}; path=/; max-age=31536000; samesite=strict`;
}}
"""


@dataclass(frozen=True)
class Rights:
    """Of one visitor. `listed`: run -> whether the visitor made or imported it; None on a server for one person."""

    listed: Mapping[str, bool] | None

    def sees(self, entry: Entry) -> bool:
        """Whether the run is in this visitor's list."""
        return entry.shipped or self.listed is None or entry.id in self.listed or SHARED in entry.tags

    def changes(self, entry: Entry) -> bool:
        """Whether the visitor may tag, note, share and delete it."""
        return not entry.shipped and (self.listed is None or self.listed.get(entry.id, False))


def several() -> bool:
    """Whether this server is for several people."""
    said = os.environ.get("KVLAB_SHARED")
    return said == "1" if said in ("0", "1") else (st.get_option("server.address") or "") not in ("127.0.0.1", "localhost", "::1")


def me() -> str:
    """This browser's name in the index: not the name in its cookie, which opens its list. "" on a server for one person."""
    return hashlib.sha256(_name().encode()).hexdigest()[:32] if several() else ""


def _name() -> str:
    known = st.context.cookies.get(COOKIE, "")
    return st.session_state.setdefault("browser", known if len(known) == 32 and known.isalnum() else uuid.uuid4().hex)


def rights(store: RunStore) -> Rights:
    """Of who asks."""
    return Rights(catalog.listed(store, me()) if several() else None)


def runs(store: RunStore) -> list[dict[str, Any]]:
    """`store.list()` without what is not in this visitor's list: for every page that offers runs."""
    found = store.list()
    if not several():
        return found
    mine, shipped = catalog.listed(store, me()), {said["id"] for said in store.ships()}
    return [said for said in found if said["id"] in mine or said["id"] in shipped or SHARED in said["tags"]]


@st.cache_resource
def _cookie() -> Any:
    return st.components.v2.component("kvlab.visitor", html="", js=SET)


def arrive() -> None:
    """Call once per page: gives the browser its name, and puts runs that were opened by a link into its list."""
    if not several():
        return
    _cookie()(key="kv-visitor", data=_name())
    asked = ",".join(st.query_params.get(name, "") for name in ("run", "cmp")).split(",")
    store, seen = RunStore(), st.session_state.setdefault("opened", set())
    if fresh := [run for run in asked if run not in seen and _here(store, run)]:
        catalog.remember(store, me(), fresh)
        seen.update(fresh)


def _here(store: RunStore, run: str) -> bool:
    try:
        return store.holds(run)
    except ValueError:
        return False
