"""Where in a run a call stands. Phases are data: the engine states them, a method's schedule answers, nothing is guessed from shapes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One forward call.

    kind: "chunk" (a part of a prompt, more to come), "prefill" (its last part), "question" (text fed after compression, itself kept),
    "decode" (one token written) or "probe" (a scoring pass whose tokens are rolled back).
    turn: 0 for the first prompt. step: the token being written, counted over all turns. writes: the call's last query writes it.
    """

    kind: str
    turn: int = 0
    step: int = 0
    writes: bool = False

    @property
    def next_step(self) -> int:
        """The first step that sees what is done after this call."""
        return self.step + self.writes


@dataclass(frozen=True)
class Schedule:
    """When `compress` of a method is called. Every turn has its own prefill end, so a second turn is compressed as the first."""

    prefill: bool = False
    chunks: bool = False
    every: int = 0  # decode steps between two calls; 0: never while decoding
    probes: bool = False

    def acts(self, phase: Phase) -> bool:
        if phase.kind == "decode":
            return self.every > 0 and phase.step % self.every == 0
        if phase.kind == "question":
            return self.every > 0
        return {"prefill": self.prefill, "chunk": self.chunks, "probe": self.probes}[phase.kind]

    def words(self) -> str:
        """The schedule for a person, as the method table shows it."""
        said = [word for word, on in (("every chunk", self.chunks), ("prefill end", self.prefill), ("scoring pass", self.probes)) if on]
        if self.every:
            said.append("every step" if self.every == 1 else f"every {self.every} steps")
        return ", ".join(said) or "nothing"
