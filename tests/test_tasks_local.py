"""Tasks from files: the user's own JSONL and the published datasets in their formats."""

import json

import pytest

from kvlab import tasks
from kvlab.tasks import local, published
from kvlab.tasks.metrics import METRICS

GOOD = {"context": "The sea is calm.", "question": "How is the sea?", "answers": ["calm", "quiet"]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def letters(text: str) -> int:
    return len(text)


def score(sample, *written):
    return [METRICS[sample.metric](answer, refs) for answer, refs in zip(written, sample.references, strict=True)]


def test_own_file(tmp_path):
    path = write(tmp_path / "notes.jsonl", GOOD, GOOD | {"question": "\nQ: how?\nA:", "answers": "calm"}, GOOD | {"answers": 7})
    path.write_text("\ufeff" + path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")  # a mark and empty lines do no harm
    for name in ("own:F1:", "own:exact:", "own:ROUGE-L:", "own:contains:"):
        first, second, third = tasks.find(f"{name}{path}").samples(3, 500, 0, letters)
        assert (first.context, first.questions, first.references) == (GOOD["context"], ("\nHow is the sea?",), (("calm", "quiet"),))
        assert second.questions == ("\nQ: how?\nA:",) and second.references == (("calm",),) and third.references == (("7",),)
        assert score(first, "calm") == [1] and score(first, "rough") == [0]
    task = local.load(path, "f1")
    assert task.samples(1, 500, 0, letters) == task.samples(2, 500, 9, letters)[:1]
    assert "sha256" in task.source and task.name == f"own:f1:{path}"
    with pytest.raises(ValueError, match=r"notes.jsonl holds 3 samples, fewer than were asked for: ask for at most 3\."):
        task.samples(4, 500, 0, letters)
    with pytest.raises(ValueError, match=r"does not fit into 90 tokens: sample 1 has 98 with its answer; nothing is cut"):
        task.samples(1, 90, 0, letters)


BAD = [
    ("{", r'line 2: not JSON \(Expecting property name.* at character 2\); each line is one object\.'),
    ("[1]", r"line 2: a JSON object is wanted, such as \{\.\.\.\}, not list\."),
    ('{"context": "a", "question": "b"}', r'line 2: "answers" is missing\.'),
    ('{"question": "b", "answers": "c"}', r'line 2: "context" is missing\.'),
    ('{"context": 5, "question": "b", "answers": "c"}', r'line 2: "context" is a text, not 5\.'),
    ('{"context": "a", "question": " ", "answers": "c"}', r'line 2: "question" is empty\.'),
    ('{"context": "a", "question": "b", "answers": []}', r'line 2: "answers" is a text or a list of texts, none of them empty, not \[\]\.'),
    ('{"context": "a", "question": "b", "answers": ["c", ""]}', r'line 2: "answers" is a text or a list'),
    ('{"context": "a", "question": "b", "answers": null}', r'line 2: "answers" is a text or a list'),
    ('{"context": "a", "question": "b", "answers": [{"x": 1}]}', r'line 2: "answers" is a text or a list'),
    ('{"context": "\\ud800", "question": "b", "answers": "c"}', r"line 2: it holds half a character"),
    ("[" * 100000, r"line 2: "),
    ('{"answers": 1' + "0" * 5000 + "}", r"line 2: "),
]


@pytest.mark.parametrize(("line", "sentence"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named(tmp_path, line, sentence):
    path = write(tmp_path / "bad.jsonl", GOOD)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"^bad\.jsonl, " + sentence):
        local.load(path)


def test_bad_files_and_names(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"context": "caf\xe9"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, sentence in {
        f"own:f1:{tmp_path}/latin.jsonl": r"latin\.jsonl is not UTF-8 text: save it as UTF-8\.",
        f"own:f1:{tmp_path}/empty.jsonl": r"empty\.jsonl holds no samples",
        f"own:f1:{tmp_path}/none.jsonl": r"none\.jsonl cannot be read: No such file or directory\.",
        f"own:f1:{tmp_path}": r"cannot be read: Is a directory\.",
        f"own:bleu:{tmp_path}/x": r"no metric 'bleu'.*Choose one of: exact, contains, f1, rouge_l\.",
        "own:notes.jsonl": r"names no file: write own:METRIC:FILE",
        "longbench:x/nothing": r"longbench has no dataset 'nothing'. It has: narrativeqa",
        "helm:x/nothing": r"no suite 'helm'. Files can be read as: own, longbench",
        f"scbench:{tmp_path}/scbench_kv": r"scbench_kv\.jsonl cannot be read",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            tasks.find(name)


def longbench(**changed):
    row = {"input": "Who?", "context": "Long ago.", "answers": ["Ann"], "length": 3, "dataset": "x", "language": "en", "all_classes": None, "_id": "1"}
    return row | changed


def infinite(**changed):
    return {"id": 1, "context": "Long ago.", "input": "Who?", "answer": ["Ann"], "options": []} | changed


def turns(*items, **changed):
    return {"id": 1, "context": "Long ago.", "multi_turns": list(items)} | changed


FOUR = ["red", "green", "blue", "grey"]
PUBLISHED = [
    # suite, dataset, row, answers that are right, answers that are not
    ("longbench", "narrativeqa", longbench(), [" ann."], ["bob"]),
    ("longbench", "narrativeqa_e", longbench(), ["Ann"], ["bob"]),
    ("longbench", "multifieldqa_zh", longbench(answers=["北京"]), ["北京。"], ["x"]),
    ("longbench", "trec", longbench(answers=["Person"], all_classes=["Person", "Place"]), ["Person\nPlace"], ["Place\nPerson"]),
    ("longbench", "samsum", longbench(answers=["Ann met Bob"]), ["\nAnn met Bob\nmore"], ["x"]),
    ("longbench", "passage_count", longbench(input="", answers=["7"]), ["7"], ["8"]),
    ("longbench", "passage_retrieval_en", longbench(answers=["Paragraph 3"]), ["Paragraph 3"], ["Paragraph 4"]),
    ("longbench", "lcc", longbench(input="", answers=["return a"]), ["return a\nx"], ["# no"]),
    ("infinitebench", "passkey", infinite(answer=["71432"]), [" 71432."], ["7143"]),
    ("infinitebench", "kv_retrieval", infinite(answer=["1f-2a"]), ['"1f-2a"'], ["1f-2"]),
    ("infinitebench", "longbook_choice_eng", infinite(options=FOUR, answer=["blue"]), ["C"], ["B"]),
    ("infinitebench", "longbook_choice_eng", infinite(options=FOUR, answer=["C"]), ["C"], ["B"]),
    ("infinitebench", "code_debug", infinite(options=FOUR, answer=["blue", "C"]), ["C."], ["blue"]),
    ("infinitebench", "math_find", infinite(answer=97), ["97"], ["9"]),
    ("infinitebench", "math_calc", infinite(input="", answer=[1, 4, 8]), ["1, 4, 8]"], ["x"]),
    ("infinitebench", "code_run", infinite(answer=[-12]), ["-12"], ["12"]),
    ("infinitebench", "longbook_sum_eng", infinite(answer=["Ann met Bob"]), ["Ann met Bob"], [""]),
    ("scbench", "scbench_kv", turns({"input": "a?", "answer": "x1"}, {"input": "b?", "answer": "x2"}), ["x1", "is x2"], ["x2", "x1"]),
    ("scbench", "scbench_vt", {"id": 1, "input": "VAR", "multi_turns": [{"input": "all?", "answer": ["A", "B"]}]}, ["b a"], ["c"]),
    ("scbench", "scbench_mf", turns({"input": "The largest number of the list is:", "answer": 9}), ["9"], ["8"]),
    ("scbench", "scbench_choice_eng", turns({"input": "Which?", "options": FOUR, "answer": "D"}), ["D"], ["A"]),
    ("scbench", "scbench_qa_chn", turns({"input": "谁", "answer": ["安"]}), ["安"], ["x"]),
    ("scbench", "scbench_summary_with_needles.scbench_passkey",
     turns({"input": "Sum up.", "answer": "s", "task": "scbench_summary"}, {"input": "Key?", "answer": "42", "task": "scbench_passkey"}), ["42"], ["43"]),
    ("scbench", "scbench_repoqa", turns({"input": "f?", "answer": "def f ( x ) : return x"}, {"input": "g?", "answer": "def g ( ) : pass"}, repo="r"),
     ["def f ( x ) : return x", "```\ndef g ( ) : pass\n```"], ["def g ( ) : pass", ""]),
]  # fmt: skip


@pytest.mark.parametrize(("suite", "dataset", "row", "right", "wrong"), PUBLISHED, ids=[d for _, d, *_ in PUBLISHED])
def test_published_formats(tmp_path, suite, dataset, row, right, wrong):
    write(tmp_path / f"{dataset.partition('.')[0]}.jsonl", row)
    task = tasks.find(f"{suite}:{tmp_path}/{dataset}")
    (sample,) = task.samples(1, 3000, 0, letters)
    assert (row.get("context") or row["input"]) in sample.context
    assert len(sample.questions) == len(right) and sample.size(letters) <= 3000
    assert score(sample, *right) == [1] * len(right)
    assert score(sample, *wrong) == [0] * len(wrong)
    with pytest.raises(ValueError, match="fewer than were asked for"):
        task.samples(2, 3000, 0, letters)


def test_every_dataset_of_the_cards_is_known_with_a_metric_there_is():
    assert {suite: len(datasets) for suite, datasets in published.SUITES.items()} == {"longbench": 21, "infinitebench": 12, "scbench": 14}
    assert all(d.metric in METRICS for datasets in published.SUITES.values() for d in datasets.values())


def test_a_context_that_is_too_long_loses_its_middle(tmp_path):
    context = "".join(f"{i:04d} " for i in range(1000))
    write(tmp_path / "narrativeqa.jsonl", longbench(context=context))
    (sample,) = tasks.find(f"longbench:{tmp_path}/narrativeqa").samples(1, 700, 0, letters)
    assert sample.size(letters) == 700
    assert sample.context.rstrip().endswith("0999") and "0000 0001" in sample.context
    assert dict(sample.about)["characters cut"] == len(context) - sum(c.isdigit() or c == " " for c in sample.context[sample.context.index("0000") :])


def test_published_lines_that_are_wrong(tmp_path):
    for dataset, row, sentence in [
        ("scbench_kv", {"context": "a", "multi_turns": []}, r'"multi_turns" is a list of turns'),
        ("scbench_choice_eng", turns({"input": "?", "options": ["a"], "answer": "A"}), r'"options" has four texts, not 1\.'),
        ("scbench_choice_eng", turns({"input": "?", "options": FOUR, "answer": "pink"}), r"\"answer\" is one of the options or its letter, not 'pink'\."),
        ("scbench_repoqa", turns({"input": "?", "answer": "f"}), r'"repo" is missing\.'),
    ]:
        write(tmp_path / f"{dataset}.jsonl", row)
        with pytest.raises(ValueError, match=rf"{dataset}\.jsonl, line 1: {sentence}"):
            tasks.find(f"scbench:{tmp_path}/{dataset}.jsonl")
