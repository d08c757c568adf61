"""How the published datasets are read: fields, prompts in our own words, metric and longest answer of each.

LongBench (2023, arXiv 2308.14508), InfiniteBench (2024, arXiv 2402.13718), SCBench (2024, arXiv 2412.10319). Metrics and longest answers
are those of the released code, except that Chinese text is compared by characters where LongBench segments words. Card:
layers_system_eval.md, part D.
"""

# ruff: noqa: RUF001 - Chinese prompts have Chinese punctuation
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvlab.tasks.local import Row, answers, text


@dataclass(frozen=True)
class Dataset:
    """`row` reads one line; `file` is the file's name where it is not the dataset's; `finish` sees all rows together."""

    paper: str
    metric: str
    new: int
    row: Callable[[dict[str, Any]], Row | None]
    file: str = ""
    finish: Callable[[list[Row]], list[Row]] | None = None


_QA = ("Answer the question from the text below. Write the answer and nothing else.\n\n", "\n\nQuestion: {input}\nAnswer:")
_QA_ZH = ("请根据下面的文字回答问题，只写答案。\n\n", "\n\n问题：{input}\n答案：")
_SUM = ("Read the text below. You will be asked to summarise it.\n\n", "\n\nWrite a summary of the text.\nSummary:")
_SUM_ASKED = ("Read the text below. You will be asked about it.\n\n", "\n\nQuestion: {input}\nAnswer in a few sentences:")
_SUM_ZH = ("请阅读下面的文字，之后请写总结。\n\n", "\n\n请写出总结。\n总结：")
_SHOTS = ("The examples below show how to go on.\n\n", "\n\n{input}")
_COUNT = ("Some of the paragraphs below are repeated.\n\n", "\n\nHow many different paragraphs are there? Write a number.\nNumber:")
_FROM = (
    "Below are numbered paragraphs. You will be asked which of them a summary belongs to.\n\n",
    '\n\nSummary: {input}\n\nWhich paragraph does it belong to? Write "Paragraph" and its number.\nAnswer:',
)
_FROM_ZH = ("下面是若干编号的段落，之后请判断摘要属于哪一段。\n\n", "\n\n摘要：{input}\n\n它属于哪一段？请写“段落”和编号。\n答案：")
_CODE = ("Complete the code below.\n", "{input}Next line of code:\n")
_PLAIN = ("", "\n\n{input}")


def _longbench(head: str, ask: str, named_classes: bool, found: dict[str, Any]) -> Row:
    refs = answers(found, "answers")
    if named_classes:
        refs = (*refs, "", *answers(found, "all_classes"))  # the metric tells golds and classes apart by the empty one
    return Row(head + text(found, "context"), (ask.replace("{input}", text(found, "input", empty=True)),), (refs,))


def _lb(metric: str, new: int, prompt: tuple[str, str]) -> Dataset:
    return Dataset("LongBench, arXiv 2308.14508", metric, new, functools.partial(_longbench, *prompt, metric.startswith("classes")))


LONGBENCH = {
    "narrativeqa": _lb("f1", 128, _QA), "qasper": _lb("f1", 128, _QA), "multifieldqa_en": _lb("f1", 64, _QA),
    "multifieldqa_zh": _lb("f1_zh", 64, _QA_ZH), "hotpotqa": _lb("f1", 32, _QA), "2wikimqa": _lb("f1", 32, _QA), "musique": _lb("f1", 32, _QA),
    "dureader": _lb("rouge_l_zh", 128, _QA_ZH), "gov_report": _lb("rouge_l", 512, _SUM), "qmsum": _lb("rouge_l", 512, _SUM_ASKED),
    "multi_news": _lb("rouge_l", 512, _SUM), "vcsum": _lb("rouge_l_zh", 512, _SUM_ZH), "trec": _lb("classes_first_line", 64, _SHOTS),
    "triviaqa": _lb("f1_first_line", 32, _SHOTS), "samsum": _lb("rouge_l_first_line", 128, _SHOTS), "lsht": _lb("classes_first_line", 64, _SHOTS),
    "passage_count": _lb("count", 32, _COUNT), "passage_retrieval_en": _lb("count", 32, _FROM), "passage_retrieval_zh": _lb("count", 32, _FROM_ZH),
    "lcc": _lb("edit_sim", 64, _CODE), "repobench-p": _lb("edit_sim", 64, _CODE),
}  # fmt: skip


def _options(found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Four options written out, and the references of a choice: the option's text and its letter, whichever of them the file gives."""
    options, given = answers(found, "options"), answers(found, "answer")
    if len(options) != 4:
        raise ValueError(f'"options" has four texts, not {len(options)}.')
    letters = [("ABCD"[options.index(g)]) for g in given if g in options] or [g for g in given if g in tuple("ABCD")]
    if not letters:
        raise ValueError(f'"answer" is one of the options or its letter, not {given[0][:60]!r}.')
    written = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    return written, (options["ABCD".index(letters[0])], letters[0])


def _asked(metric: str, ask: str, found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """One question and its references."""
    if metric in ("choice", "code_debug"):
        written, refs = _options(found)
        return ask.replace("{input}", text(found, "input", empty=True) + written), refs
    return ask.replace("{input}", text(found, "input", empty=True)), answers(found, "answer")


def _infinite(metric: str, head: str, ask: str, found: dict[str, Any]) -> Row:
    context = text(found, "content" if "content" in found else "context")  # the generated files say content
    question, refs = _asked(metric, ask, found)
    return Row(head + context, (question,), (refs,))


def _ib(metric: str, new: int, prompt: tuple[str, str]) -> Dataset:
    return Dataset("InfiniteBench, arXiv 2402.13718", metric, new, functools.partial(_infinite, metric, *prompt))


_HIDDEN = "A piece of information is hidden in the text below. Remember it.\n\n"
_LETTER = "\n\n{input}\n\nThe letter of the right option is"
_MASKED = (
    'In the script below one name was replaced by "$$MASK$$". You will be asked which.\n\n',
    "\n\n{input}\n\nThe name behind $$MASK$$ is",
)
INFINITEBENCH = {
    "passkey": _ib("passkey", 6, (_HIDDEN, "\n\n{input}\n\nThe pass key is")),
    "number_string": _ib("passkey", 12, (_HIDDEN, "\n\n{input}\n\nThe sequence of digits is")),
    "kv_retrieval": _ib("words", 50, ("Find the value of a key in the JSON object below.\n\n", "\n\n{input}")),
    "longbook_sum_eng": _ib("rouge_lsum", 1200, _SUM), "longbook_qa_eng": _ib("f1", 40, _QA), "longbook_qa_chn": _ib("f1_zh", 40, _QA_ZH),
    "longbook_choice_eng": _ib("choice", 40, (_QA[0], _LETTER)), "longdialogue_qa_eng": _ib("contains_any", 40, _MASKED),
    "math_find": _ib("first_number", 3, ("Look at the numbers of the list below.\n\n", "\n\n{input}")),
    "math_calc": _ib("math_calc", 30000, ("Work out the value after every operation of the expression below.\n\n", "\n{input}\nValues: [")),
    "code_run": _ib("last_integer", 5, ("Read the functions below.\n\n", "\n\n{input}")),
    "code_debug": _ib("code_debug", 5, ("One function of the code below has a mistake.\n\n", "\n\n{input}\n\nThe right option is:")),
}  # fmt: skip


def _scbench(metric: str, head: str, ask: str, kind: str, found: dict[str, Any]) -> Row | None:
    """All turns of one context; with `kind`, those of that kind. None if it has none."""
    turns = found.get("multi_turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError('"multi_turns" is a list of turns, each an object with input and answer.')
    asked = [_asked(metric, ask, turn) for turn in turns if not kind or turn.get("task") == kind]
    if not asked:
        return None
    questions, refs = zip(*asked, strict=True)
    if metric == "repo_function":  # what comes after the empty one is the repository, until all rows are read
        refs = tuple((*r, "", text(found, "repo")) for r in refs)
    return Row(head + text(found, "context" if "context" in found else "input"), questions, refs)


def with_other_functions(rows: list[Row]) -> list[Row]:
    """Every function that is asked of a repository becomes a rival of the others of that repository."""
    asked: dict[str, list[str]] = {}
    for row in rows:
        for *golds, _, repo in row.references:
            asked.setdefault(repo, []).extend(golds)
    return [
        dataclasses.replace(row, references=tuple((*golds, "", *(o for o in asked[repo] if o not in golds)) for *golds, _, repo in row.references))
        for row in rows
    ]


def _sc(metric: str, new: int, prompt: tuple[str, str] = _PLAIN, file: str = "", kind: str = "") -> Dataset:
    finish = with_other_functions if metric == "repo_function" else None
    return Dataset("SCBench, arXiv 2412.10319", metric, new, functools.partial(_scbench, metric, *prompt, kind), file, finish)


_REPO = ("Read the code below. You will be asked to repeat one function of it in a code block.\n\n", "\n\n{input}")
_JSON = ("Find the values of keys in the JSON object below.\n\n", "\n\n{input}")
SCBENCH = {
    "scbench_kv": _sc("substring", 150, _JSON), "scbench_prefix_suffix": _sc("substring", 150), "scbench_vt": _sc("contains_all_rounded", 30),
    "scbench_repoqa": _sc("repo_function", 1024, _REPO), "scbench_qa_eng": _sc("contains_any", 40, _QA), "scbench_qa_chn": _sc("f1_zh", 40, _QA_ZH),
    "scbench_choice_eng": _sc("choice", 40, (_QA[0], _LETTER)), "scbench_mf": _sc("first_number", 5), "scbench_many_shot": _sc("contains_any", 10),
    "scbench_summary": _sc("rouge_lsum", 200),
    "scbench_summary_with_needles.scbench_summary": _sc("rouge_lsum", 800, _PLAIN, "scbench_summary_with_needles", "scbench_summary"),
    "scbench_summary_with_needles.scbench_passkey": _sc("passkey", 15, _PLAIN, "scbench_summary_with_needles", "scbench_passkey"),
    "scbench_repoqa_and_kv.scbench_repoqa": _sc("repo_function", 1024, _PLAIN, "scbench_repoqa_and_kv", "scbench_repoqa"),
    "scbench_repoqa_and_kv.scbench_kv": _sc("substring", 80, _PLAIN, "scbench_repoqa_and_kv", "scbench_kv"),
}  # fmt: skip

SUITES: dict[str, dict[str, Dataset]] = {"longbench": LONGBENCH, "infinitebench": INFINITEBENCH, "scbench": SCBENCH}
