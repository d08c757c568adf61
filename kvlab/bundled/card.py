"""Writes the model card and the loss curves: `python -m kvlab.bundled.card`, from notes.yaml (hand-written parts), logs, accuracy tables and head scores."""

from __future__ import annotations

import argparse
import json
import platform
import textwrap
from pathlib import Path

import torch
import transformers
import yaml

from kvlab.bundled import natural, ruler
from kvlab.bundled.words import TRAIN

TEXT = """# The bundled model

A decoder of {parameters:.2f} million parameters ({layers} layers of width {hidden}, 8 query heads, 4 key-value
heads of size 32, q/k norm, RoPE, tied embeddings; Qwen3 architecture, float16, {megabytes:.1f} MB) that was
trained from nothing to look things up in its context. It exists so that a trade-off between memory and
accuracy can be measured on any computer without a download.

**It is no assistant.** It knows no facts about the world, follows no instructions, cannot count, sum up,
translate or reason, has no chat template, and writes nonsense outside the forms below. Questions must end
in an answer prefix that repeats the key ("... Answer: The code of the green falcon is"), as in RULER.

## How it was made

{commands}

{runs}
- Random seed 0 (second part 1, third 2); a batch depends only on the seed and the step. {versions}
- Data: only text that may be shipped: a seeded generator (`kvlab/bundled/forms.py`: facts, needles in
  sentences, noise and docstrings, key-value lists, variable chains, RULER's needles, copies; in the second
  part also `kvlab/bundled/ruler.py`: several keys or values at once, uuids, variable tracking, frequent and
  common words, pass keys, documents, and in the third `kvlab/bundled/taskrows.py`: samples of the tasks
  themselves, from other seeds and with their words replaced) and the docstrings of Python's standard library ({train_chars:,}
  characters; {held_chars:,} characters of other files are held out).
- Key words: from the second part on the training lists together with {wide:,} words of the training docstrings,
  invented words and blends of two words; the held-out words are in none of them.
- Loss: all tokens (half of those outside answers, drawn at random), answer tokens weighted 16 times, long
  answers 4 times, contexts of tasks 0.3 times. Muon for matrices (0.012, later parts 0.007), AdamW for the rest
  (0.003, later parts 0.0018), linear decay over the last 40 % of each part.
- Rows of 128 to 1,024 tokens (256 to 1,024 from the second part on). Seven rows in ten have jumps in their positions, up to 8,192, so that long
  contexts and gaps in the positions are not new to the model.
- Numbers are cut into groups of three digits, each group one token, with or without a space before it.

![loss](loss.svg)

The second part:

![loss of the second part](loss-second.svg)

The third part:

![loss of the third part](loss-third.svg)

## Accuracy with the full cache

Whole answers exactly right, greedy, on unseen seeds and on key words that appear in no training text
(every fifth word of each list). In brackets: the number of questions, and the mean length of the context
where the word lists were used up long before the length asked for was reached. At length 128 the questions
take most of the room: contexts there have 25 to 100 tokens.

{table}
{aims}
{train_table}{tasks}
Held-out docstrings: perplexity {ppl:.1f} per token ({bpc:.2f} bits per character) over {ppl_tokens:,} tokens
at up to {ppl_length} tokens of context.

## Attention sinks and retrieval heads

{heads}

All scores are in `heads.json`.

## What it cannot do

{cannot}
"""


def _curve(values: list[float], width: int, height: int, top: float) -> str:
    n = max(1, len(values) - 1)
    points = (f"{40 + i / n * width:.1f},{10 + (1 - min(v, top) / top) * height:.1f}" for i, v in enumerate(values))
    return " ".join(points)


def _smooth(values: list[float], parts: int = 150) -> list[float]:
    size = max(1, len(values) // parts)
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def loss_svg(log: list[dict]) -> str:
    """Curves of the weighted loss and of the loss on answer tokens (nats) over training steps."""
    width, height, top = 520, 200, 8.0
    lines = []
    for key, colour in (("loss", "#4477aa"), ("answer_loss", "#cc6677")):
        points = _curve(_smooth([e[key] for e in log]), width, height, top)
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
    ticks = "".join(
        f'<text x="34" y="{14 + (1 - v / top) * height:.0f}" text-anchor="end">{v}</text>' for v in (0, 2, 4, 6, 8)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="580" height="250" font-family="sans-serif" font-size="11">'
        f'<rect width="580" height="250" fill="white"/><path d="M40 10V210H560" fill="none" stroke="#888"/>{ticks}'
        f'<text x="40" y="228">step 0</text><text x="560" y="228" text-anchor="end">step {log[-1]["step"] + 1}</text>'
        f'<text x="300" y="30" fill="#4477aa">weighted loss (nats)</text>'
        f'<text x="300" y="46" fill="#cc6677">answer tokens (nats)</text>{"".join(lines)}</svg>\n'
    )


def _cell(row: dict) -> str:
    """Accuracy and questions; also the context's mean tokens where the form ran out of words far below the length."""
    short = row["length"] > 128 and row["context_tokens"] < 0.75 * row["length"]
    tokens = f"; {row['context_tokens']:,} tokens" if short else ""
    return f"{row['accuracy']:.2f} ({row['questions']}{tokens})"


def table(result: dict) -> str:
    """Markdown table, a form a row and a length a column."""
    lengths = sorted({r["length"] for r in result["rows"]})
    cells = {(r["form"], r["length"]): _cell(r) for r in result["rows"]}
    forms = list(dict.fromkeys(r["form"] for r in result["rows"]))
    lines = ["| form | " + " | ".join(f"{n:,}" for n in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    lines += [f"| {f} | " + " | ".join(cells.get((f, n), "") for n in lengths) + " |" for f in forms]
    return "\n".join(lines) + "\n"


def _heads(heads: dict) -> str:
    sink = [(max(row), i, row.index(max(row))) for i, row in enumerate(heads["sink_share"])]
    sinks = "; ".join(f"layer {i}: {value:.0%} (head {j})" for value, i, j in sink)
    found = ", ".join(
        f"layer {h['layer']} head {h['head']} ({h['argmax_rate']:.0%}, {h['copied_share']:.0%})"
        for h in heads["retrieval_heads"][:10]
    )
    return (
        f"Highest mean share of attention on the first token in each layer, on {heads['samples']} documents of about "
        f"{heads['size']} tokens (evenly spread attention would give {heads['sink_share_if_uniform']:.1%}): {sinks}.\n\n"
        "Retrieval heads, layers and heads counted from 0 (how often the copied token gets the most attention of all, "
        f"and its mean share of attention): {found or 'none above 10 %'}."
    )


def _tasks(path: Path) -> str:
    """The tasks of `kvlab/tasks` with the full cache, a task a row and a length a column."""
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    lengths = sorted({row["length"] for row in found["rows"]})
    cells = {(row["task"], row["length"]): f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f}; {row['n']})" for row in found["rows"]}
    lines = [f"\nThe tasks of kvlab with the full cache (`{found['command']}`): mean score, its 95 % interval and the number of questions.\n"]
    lines += ["| task | " + " | ".join(f"{n:,}" for n in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    lines += [f"| `{task}` | " + " | ".join(cells.get((task, n), "") for n in lengths) + " |" for task in dict.fromkeys(r["task"] for r in found["rows"])]
    return "\n".join(lines) + "\n\n"


def _log(path: Path) -> list[dict]:
    entries = {e["step"]: e for e in map(json.loads, path.read_text().splitlines())}  # the last of repeated steps
    return [entries[s] for s in sorted(entries)]


def main(argv: list[str]) -> int:
    """Writes README.md and loss.svg into the model folder."""
    parser = argparse.ArgumentParser(prog="kvlab card", description=__doc__)
    parser.add_argument("--model", default="data/model")
    parser.add_argument("--log", type=Path, help="log.jsonl of the first part; without it its picture stays as it is")
    parser.add_argument("--second-log", type=Path)
    parser.add_argument("--third-log", type=Path)
    args = parser.parse_args(argv)
    model = Path(args.model)
    cfg, result, heads = (json.loads((model / n).read_text()) for n in ("config.json", "accuracy.json", "heads.json"))
    weights = (model / "model.safetensors").stat().st_size
    seen = result.get("training_words")
    said = yaml.safe_load((model / "notes.yaml").read_text())
    for log, name in ((args.log, "loss.svg"), (args.second_log, "loss-second.svg"), (args.third_log, "loss-third.svg")):
        if log:
            (model / name).write_text(loss_svg(_log(log)))
    text = TEXT.format(
        parameters=weights / 2e6, layers=cfg["num_hidden_layers"], hidden=cfg["hidden_size"], megabytes=weights / 1e6,
        commands=textwrap.indent(said["commands"].strip(), "    "), runs=said["runs"].strip(), aims=said["aims"], cannot=said["cannot"].strip(),
        versions=f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}.",
        train_chars=sum(map(len, natural.documents(False))), held_chars=sum(map(len, natural.documents(True))),
        table=table(result), heads=_heads(heads), ppl=result["natural"]["perplexity"],
        bpc=result["natural"]["bits_per_character"], ppl_tokens=result["natural"]["tokens"],
        ppl_length=result["natural"]["length"],
        train_table=f"\nThe same with key words of the training part (seeds still unseen):\n\n{table(seen)}" if seen else "",
        wide=len(set(ruler.wide().nouns) - set(TRAIN.nouns)), tasks=_tasks(model / "tasks.json"),
    )
    (model / "README.md").write_text(text)
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
