"""Many sessions at once without a browser: each speaks Streamlit's own protocol over a WebSocket, as a tab does. A worker of `bench ui`, run by its path.

The request is one JSON argument, the answer one JSON line. A session opens its page, waits for the end of the script, then asks for the page once more
with what it already has, as a released scrubber does. All of them do each at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect


class Session:
    """One tab's side of the wire."""

    def __init__(self, wire: ClientConnection, page: str, query: str) -> None:
        self.wire, self.page, self.query = wire, page, query
        self.bytes, self.known = 0, []

    async def ask(self) -> float:
        """Milliseconds from asking for the page to the end of its script. Raises ValueError when the page shows an error."""
        message = BackMsg()
        message.rerun_script.query_string, message.rerun_script.page_name = self.query, self.page
        message.rerun_script.cached_message_hashes.extend(self.known)
        start = time.perf_counter()
        await self.wire.send(message.SerializeToString())
        while True:
            raw = await self.wire.recv()
            self.bytes += len(raw)
            said = ForwardMsg.FromString(raw)
            if said.metadata.cacheable and said.hash:
                self.known.append(said.hash)
            if said.delta.new_element.WhichOneof("type") == "exception":
                raise ValueError(f"the page {self.page or 'of the server'} shows an error: {said.delta.new_element.exception.message}")
            if said.WhichOneof("type") == "script_finished" and said.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return 1000 * (time.perf_counter() - start)


async def crowd(address: str, page: str, query: str, count: int) -> dict[str, Any]:
    """Figures of `count` sessions that do the same at the same time."""
    stream = f"ws{address.removeprefix('http')}/_stcore/stream"
    wires = await asyncio.gather(*(connect(stream, subprotocols=["streamlit"], max_size=None) for _ in range(count)))
    sessions = [Session(wire, page, query) for wire in wires]
    try:
        opened = await asyncio.gather(*(one.ask() for one in sessions))
        sent = [one.bytes for one in sessions]
        again = await asyncio.gather(*(one.ask() for one in sessions))
        more = [one.bytes - before for one, before in zip(sessions, sent, strict=True)]
    finally:
        await asyncio.gather(*(wire.close() for wire in wires))
    return {
        "open_median_ms": statistics.median(opened), "open_last_ms": max(opened), "again_median_ms": statistics.median(again), "again_last_ms": max(again),
        "bytes_each": max(sent), "bytes_again": max(more),
    }  # fmt: skip


async def both(asked: dict[str, Any]) -> dict[str, Any]:
    """kvlab and the bare page in turn, `rounds` times; the medians of every figure."""
    found: dict[str, list[dict[str, Any]]] = {"kvlab": [], "bare": []}
    pages = {"kvlab": (asked["ours"], "inside", f"run={asked['preset']}"), "bare": (asked["bare"], "", "")}
    for turn in range(asked["rounds"]):
        for side in ("kvlab", "bare") if turn % 2 else ("bare", "kvlab"):
            found[side].append(await crowd(*pages[side], asked["count"]))
    return {side: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]} for side, rounds in found.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(both(json.loads(sys.argv[1])))))
