"""Tasks from files on this machine: the user's own JSONL, and LongBench, InfiniteBench and SCBench as they are published.

Names of such tasks hold the path: `own:f1:notes.jsonl`, `longbench:FOLDER/narrativeqa`, `infinitebench:FOLDER/passkey`,
`scbench:FOLDER/scbench_kv`. Sample i is line i of the file; the seed changes nothing. What is wrong with a file is one sentence with the
line's number, raised as ValueError.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab.tasks.base import SLACK, Sample, Task, Tokens, TooLong, fit

OWN_METRICS = {"exact": "exact", "contains": "contains_any", "f1": "f1", "rouge_l": "rouge_l"}
OWN_NEW = 64  # tokens an answer may have, or more if a reference has more


@dataclass(frozen=True)
class Row:
    """One line of a file, ready to be asked: context, questions with their answer prefixes, references."""

    context: str
    questions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]


def find(name: str) -> Task:
    """The task of a name with a colon (see the module). Raises ValueError with a sentence."""
    suite, _, rest = name.partition(":")
    if suite == "own":
        metric, _, path = rest.partition(":")
        if not path:
            raise ValueError(f"{name!r} names no file: write own:METRIC:FILE, such as own:f1:notes.jsonl. Metrics: {', '.join(OWN_METRICS)}.")
        return load(path, metric)
    return from_file(rest, suite)


def load(path: str | Path, metric: str = "contains") -> Task:
    """The user's own task: a JSONL file whose lines hold context, question and answers (a text or a list of texts).

    A question is fed as it stands, on a line of its own unless it brings its white space. `metric` is one of `OWN_METRICS`.
    """
    chosen = OWN_METRICS.get(metric.lower().replace("-", "_"))
    if chosen is None:
        raise ValueError(f"There is no metric {metric!r} for a file of one's own. Choose one of: {', '.join(OWN_METRICS)}.")
    path = Path(path)
    rows = read(path, _own)
    sentence = f"Questions of {path.name}, scored by {metric}."
    return Task(f"own:{metric}:{path}", 1, path.stem, sentence, _source("Own file", path), functools.partial(_own_sample, path, rows, chosen))


def from_file(path: str | Path, suite: str) -> Task:
    """A dataset of `longbench`, `infinitebench` or `scbench`; the file's name says which (`.jsonl` may be left out).

    Two datasets of SCBench hold two kinds of questions with a metric each: `scbench_repoqa_and_kv.scbench_kv` is one of the kinds.
    """
    from kvlab.tasks.published import SUITES

    if suite not in SUITES:
        raise ValueError(f"There is no suite {suite!r}. Files can be read as: own, {', '.join(SUITES)}.")
    given = Path(str(path).removesuffix(".jsonl"))
    datasets = SUITES[suite]
    dataset = given.name.removesuffix("_e") if suite == "longbench" else given.name  # LongBench-E
    if dataset not in datasets:
        raise ValueError(f"{suite} has no dataset {given.name!r}. It has: {', '.join(datasets)}.")
    chosen = datasets[dataset]
    file = given.parent / f"{chosen.file or given.name}.jsonl"
    rows = read(file, chosen.row)
    if chosen.finish:
        rows = chosen.finish(rows)
    build = functools.partial(_published_sample, file, rows, chosen.metric, chosen.new)
    return Task(f"{suite}:{given}", 1, f"{suite} {given.name}", f"{given.name} of {suite}, read from a file.", _source(chosen.paper, file), build)


def _source(what: str, path: Path) -> str:
    return f"{what}; {path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def read(path: Path, row: Callable[[dict[str, Any]], Row | None]) -> list[Row]:
    """Rows of a JSONL file; empty lines are passed over, and lines for which `row` gives None. `row` raises ValueError with a sentence."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            made = row(_object(line))
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from None
        if made is not None:
            rows.append(made)
    if not rows:
        raise ValueError(f"{path.name} holds no samples: each line is one JSON object.")
    return rows


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        line.encode()
        json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1}); each line is one object.") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate such as \\ud800); write whole characters.") from None
    except RecursionError:
        raise ValueError("it is nested too deeply; each line is one flat object.") from None
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is wanted, such as {{...}}, not {type(found).__name__}.")
    return found


def text(found: dict[str, Any], key: str, empty: bool = False) -> str:
    """The text under a key. Raises ValueError with a sentence if it is missing, no text, or empty where it may not be."""
    if key not in found:
        raise ValueError(f'"{key}" is missing.')
    if not isinstance(found[key], str):
        raise ValueError(f'"{key}" is a text, not {json.dumps(found[key])[:60]}.')
    if not empty and not found[key].strip():
        raise ValueError(f'"{key}" is empty.')
    return found[key]


def answers(found: dict[str, Any], key: str) -> tuple[str, ...]:
    """The texts under a key, which holds one or a list; numbers are written out. Raises ValueError with a sentence."""
    if key not in found:
        raise ValueError(f'"{key}" is missing.')
    given = found[key] if isinstance(found[key], list) else [found[key]]
    if not given or any(isinstance(a, bool) or not isinstance(a, str | int | float) or not str(a).strip() for a in given):
        raise ValueError(f'"{key}" is a text or a list of texts, none of them empty, not {json.dumps(found[key])[:60]}.')
    return tuple(map(str, given))


def _own(found: dict[str, Any]) -> Row:
    question = text(found, "question")
    return Row(text(found, "context"), (question if question[0].isspace() else f"\n{question}",), (answers(found, "answers"),))


def _row(path: Path, rows: Sequence[Row], index: int) -> Row:
    if index >= len(rows):
        raise ValueError(f"{path.name} holds {len(rows)} samples, fewer than were asked for: ask for at most {len(rows)}.")
    return rows[index]


def _own_sample(path: Path, rows: Sequence[Row], metric: str, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    row = _row(path, rows, index)
    new = max(OWN_NEW, max(tokens(r) for refs in row.references for r in refs) + SLACK)
    sample = Sample(row.context, row.questions, row.references, metric, new)
    if (size := sample.size(tokens)) > length:
        raise TooLong(f"sample {index + 1} has {size} with its answer; nothing is cut from a file of one's own.")
    return sample


def _published_sample(path: Path, rows: Sequence[Row], metric: str, new: int, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    """A context that is too long loses its middle, as in the released harnesses; `about` says how many characters. An answer takes at most half."""
    row = _row(path, rows, index)
    new = min(new, length // 2 // len(row.questions))

    def make(rng: random.Random, units: int) -> Sample:
        kept = row.context[: units - units // 2] + row.context[len(row.context) - units // 2 :]
        return Sample(kept, row.questions, row.references, metric, new, about=(("characters cut", len(row.context) - units),))

    whole = make(rng, len(row.context))
    if whole.size(tokens) <= length:
        return whole
    return fit(make, rng, length, tokens, most=len(row.context))
