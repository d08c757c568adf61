"""Tasks: what every one of them promises, and the constructions of the card one by one. No model is needed."""

import hashlib
import json
import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from kvlab import tasks
from kvlab.bundled import words as bundled
from kvlab.sweep.answers import Answers
from kvlab.tasks import base, essay, words
from kvlab.tasks.metrics import METRICS
from kvlab.tasks.suites import infinitebench, needle, ruler_niah, ruler_words

ENCODER = Tokenizer.from_file("data/model/tokenizer.json")


def tokens(text: str) -> int:
    return len(ENCODER.encode(text, add_special_tokens=False).ids)


def one(name: str, length: int = 1024, seed: int = 0, index: int = 0) -> base.Sample:
    return tasks.find(name).samples(index + 1, length, seed, tokens)[index]


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_keeps_its_promises(name):
    task = tasks.find(name)
    length = 1200 if name.endswith("_example") else 1024  # a solved example takes its room first
    samples = task.samples(2, length, 7, tokens)
    assert samples == task.samples(2, length, 7, tokens)
    assert samples[:1] == task.samples(1, length, 7, tokens)
    assert len({s.context for s in samples}) == 2
    assert samples[0].context != task.samples(1, length, 8, tokens)[0].context
    for sample in samples:
        assert 0.85 * length < sample.size(tokens) <= length
        assert bool(sample.continuation) == (task.kind == "text") != bool(sample.questions)
        assert len(sample.questions) == len(sample.references)
        for question, references in zip(sample.questions, sample.references, strict=True):
            assert references and all(references)
            assert max(map(tokens, references)) < sample.max_new_tokens
            assert METRICS[sample.metric](written(sample, references), references) == 1
            assert METRICS[sample.metric]("", references) == 0
            assert question not in sample.context or name == "ruler_cwe_example"  # whose example asks the same


def written(sample: base.Sample, references: tuple[str, ...]) -> str:
    """A right answer."""
    if sample.metric.startswith("longgen"):
        return "".join("\nAnswer_{}: The answer is {}.".format(*r.split("=")) for r in references)
    return f" {', '.join(references)}."


VERSIONS = {
    "passkey64": "1 43cd0af4", "infinite_passkey": "1 be61df3d", "infinite_number": "1 2f299341", "infinite_kv": "1 13fcb0ad",
    "infinite_math_find": "1 50a3f56f", "infinite_code_run": "1 db235792", "longgen_copy": "2 8878c4cd", "longgen_add": "2 265c626d",
    "niah": "1 c0649a76", "recall": "1 c978ed23", "kvlist": "1 08049aa0", "chain": "1 f6c8b043", "ruler_niah_single_1": "1 cd09a538",
    "ruler_niah_single_2": "1 83320fdc", "ruler_niah_single_3": "1 53c593fb", "ruler_niah_multikey_1": "1 8652a8b6",
    "ruler_niah_multikey_2": "1 e528e1bd", "ruler_niah_multikey_3": "1 dddd1e54", "ruler_niah_multivalue": "1 e6b275fa",
    "ruler_niah_multiquery": "1 f4ac1343", "ruler_qa_1": "1 fd80beb6", "ruler_qa_2": "1 534b77c9", "ruler_vt": "1 63848922",
    "ruler_vt_example": "1 39389ef9", "ruler_cwe": "1 f0e861b6", "ruler_cwe_example": "1 4e8e7505", "ruler_fwe": "1 0d26337c",
    "scbench_kv": "1 a51564ae", "scbench_prefix_suffix": "1 2a25a6e2", "scbench_vt": "1 3612aabc", "scbench_mf": "1 cddf13ae",
    "scbench_mix": "1 f7320c05", "scbench_many_shot": "1 d92b2af9",
}  # fmt: skip


def test_changed_samples_are_a_new_version():
    """Points of different runs are compared by task and version. If this fails on purpose: raise the task's version, then write the new digest."""
    found = {}
    for name in tasks.names():
        if name not in ("niah_docstrings", "ppl"):  # their text is Python's own and changes with it
            task = tasks.find(name)
            made = repr(task.samples(2, 1200, 0, lambda text: len(text) // 4))
            found[name] = f"{task.version} {hashlib.sha256(made.encode()).hexdigest()[:8]}"
    assert found == VERSIONS


@pytest.mark.parametrize("name", ["niah", "recall", "ruler_vt", "ppl"])
def test_the_questions_an_engine_asks_alone_fit_too(name):
    """Whole texts as an engine joins them, with a leading special token, stay within the length."""
    for sample in tasks.find(name).samples(3, 512, 1, tokens):
        for question, references in zip(sample.questions or ("",), sample.references or ((),), strict=True):
            whole = sample.context + question + (written(sample, references) if references else sample.continuation)
            assert tokens(whole) + 1 <= 512


def test_names_are_found_and_unknown_ones_are_told():
    assert {"niah", "recall", "kvlist", "chain", "passkey64", "ppl"} <= set(tasks.names())
    assert len([n for n in tasks.names() if n.startswith("ruler_") and not n.endswith("_example")]) == 13
    with pytest.raises(ValueError, match=r"no task 'ruler_vtt'\. Did you mean ruler_vt.*Tasks: .*niah"):
        tasks.find("ruler_vtt")
    with pytest.raises(ValueError, match=r"ruler_vt does not fit into 100 tokens: its smallest sample has \d+\."):
        one("ruler_vt", 100)
    with pytest.raises(ValueError, match=r"ruler_fwe does not fit into 200 tokens: its vocabulary needs 250\."):
        one("ruler_fwe", 200)


@pytest.mark.parametrize("least", [0, 1, 5])
@pytest.mark.parametrize("most", [6, 1000])
@pytest.mark.parametrize("length", [7, 8, 12, 13, 31, 500])
def test_fit_finds_what_trying_every_size_finds(least, most, length):
    def make(rng, units):
        return base.Sample("x" * units)

    sizes = [n for n in range(least, most + 1) if base.SPECIAL + n <= length]
    assert len(base.fit(make, random.Random(0), length, len, least, most).context) == max(sizes)


def test_words_are_new_to_the_bundled_model():
    trained = {w.lower() for w in bundled.TRAIN.every()} | set(bundled.VERBS)
    ours = [*words.ADJECTIVES, *words.NOUNS, *words.NAMES]
    assert not trained & {w.lower() for w in ours}
    assert len(set(ours)) == len(ours)
    assert min(len(words.ADJECTIVES), len(words.NOUNS)) >= 150
    assert min(len(set(slot)) for slot in (essay._NOUNS, essay._VERBS, essay._ADVERBS)) >= 200


# needles


@pytest.mark.parametrize("name", ["niah", "niah_docstrings"])
def test_the_needle_is_there_once_at_its_depth(name):
    found = tasks.find(name).samples(11, 1024, 3, tokens)
    assert sorted(dict(s.about)["depth"] for s in found) == list(needle.DEPTHS)
    for sample in found:
        about = dict(sample.about)
        assert sample.context.count(about["needle"]) == 1
        before, after = (len(re.findall("\n" if name.endswith("docstrings") else r"\.", part)) for part in sample.context.split(about["needle"]))
        assert before / (before + after) == pytest.approx(about["depth"], abs=0.04)  # in units of filler: lines or sentences


def test_needle_goes_first_or_last_at_the_ends():
    assert needle.at_depth([" a.", " b."], " N.", 0) == "N. a. b."
    assert needle.at_depth([" a.", " b."], " N.", 0.5) == "a. N. b."
    assert needle.at_depth([" a.", " b."], " N.", 1) == "a. b. N."


@pytest.mark.parametrize("name", [n for n in tasks.names() if n.startswith("ruler_niah")])
def test_ruler_needles_occur_once_and_are_asked_for(name):
    for sample in tasks.find(name).samples(3, 1024, 5, tokens):
        kind = "uuid" if "uuid" in sample.questions[0] else "number"
        needles = re.findall(rf"One of the special magic {kind}s for (\S+) is: ([\w-]+)\.", sample.context)
        asked = sample.references[0]
        assert len(set(needles)) == len(needles)
        assert len({value for _, value in needles}) == len(needles)
        assert [sample.context.count(value) for value in asked] == [1] * len(asked)
        keys = {key for key, value in needles if value in asked}
        assert all(key in sample.questions[0] for key in keys)
        distractors = {key for key, _ in needles} - keys
        assert not any(key in sample.questions[0] for key in distractors)
        if "depth" in dict(sample.about) and "multikey" not in name:
            at = sample.context.index("One of the special") / len(sample.context)
            assert at == pytest.approx(dict(sample.about)["depth"], abs=0.12)  # the instruction comes first


def test_ruler_needle_counts():
    def needles(name):
        return one(name).context.count("One of the special magic")

    assert [needles(f"ruler_niah_{n}") for n in ("single_1", "single_2", "single_3", "multikey_1", "multivalue", "multiquery")] == [1, 1, 1, 4, 4, 4]
    assert needles("ruler_niah_multikey_2") > 20 and needles("ruler_niah_multikey_3") > 5
    assert [len(one(f"ruler_niah_{n}").references[0]) for n in ("multikey_1", "multivalue", "multiquery")] == [1, 4, 4]


def test_ruler_questions_have_the_official_words():
    assert ruler_niah.question("number", ["a-b"], 1) == (
        "\nQuestion: What is the special magic number for a-b mentioned in the provided text?"
        "\nAnswer: The special magic number for a-b mentioned in the provided text is:"
    )
    assert ruler_niah.question("number", ["a", "b", "c"], 3) == (
        "\nQuestion: What are all the special magic numbers for a, b, and c mentioned in the provided text?"
        "\nAnswer: The special magic numbers for a, b, and c mentioned in the provided text are:"
    )


# other tasks of RULER


@pytest.mark.parametrize("name", ["ruler_vt", "ruler_vt_example", "scbench_vt"])
def test_variable_tracking(name):
    for sample in tasks.find(name).samples(3, 1200, 2, tokens):
        for question, names in zip(sample.questions, sample.references, strict=True):
            value = re.search(r"assigned the value (\d+) in the text above", question).group(1)
            assert 10000 <= int(value) <= 99998
            assert sample.context.count(value) == 1  # once as a literal
            lines = [sample.context.index(line) for line in (f"VAR {names[0]} = {value}\n", *(f"VAR {b} = VAR {a}" for a, b in pairwise(names)))]
            assert lines == sorted(lines)
            assert f"{len(names)} variables are assigned the value {value}, they are:" in question
    assert ("Answer:" in one(name, 1200).context) == name.endswith("example")


def test_frequent_words_follow_the_zeta_law():
    assert [ruler_words.copies(1000, rank) for rank in (1, 2, 3, 4)] == [607, 151, 67, 37]  # the card's figures
    assert all(ruler_words.copies(n, 4) > ruler_words.copies(n, 5) for n in range(53, 20000))


@pytest.mark.parametrize(("name", "wanted"), [("ruler_fwe", 3), ("ruler_cwe", 10)])
@pytest.mark.parametrize("length", [768, 4096])
def test_the_words_asked_for_are_the_most_frequent(name, wanted, length):
    sample = one(name, length)
    intro = {"ruler_fwe": ruler_words._FWE_INTRO, "ruler_cwe": ruler_words._CWE_INTRO}[name]
    counts = Counter(word for word in sample.context.removeprefix(intro).split() if word.isalpha())  # not "...", not "12."
    ranked = [word for word, _ in counts.most_common()]
    assert set(ranked[:wanted]) == set(sample.references[0])
    assert counts[ranked[wanted - 1]] > counts[ranked[wanted]]
    if name == "ruler_cwe":
        assert {counts[w] for w in ranked[:wanted]} == {6 if length < 4096 else 30}
        assert {counts[w] for w in ranked[wanted:]} == {1 if length < 4096 else 3}


def test_questions_about_documents():
    for name in ("ruler_qa_1", "ruler_qa_2"):
        for sample in tasks.find(name).samples(3, 1024, 4, tokens):
            (answer,) = sample.references[0]
            who = re.search(r"the (\S+ \S+?)(?: live)?\?", sample.questions[0]).group(1)
            if name == "ruler_qa_2":
                owner = re.search(rf"The owner of the {who} is (\w+)\.", sample.context).group(1)
                assert sample.context.count(f"{owner} lives in {answer}.") == 1
                assert sample.context.count(f"{owner} lives in") == 1
            else:
                assert re.search(rf" of the {who} is {answer}\.", sample.context)
            numbers = [int(n) for n in re.findall(r"Document (\d+):", sample.context)]
            assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 2


# recall, InfiniteBench, SCBench, long answers, text


@pytest.mark.parametrize("name", ["recall", "kvlist", "chain"])
def test_bundled_forms_stay_on_new_words(name):
    sample = one(name, 2048)
    asked = " ".join(sample.questions)
    assert len(sample.questions) == 4
    assert not {w.lower() for w in re.findall(r"[A-Za-z]{4,}", asked)} & {w.lower() for w in bundled.TRAIN.adjectives + bundled.TRAIN.nouns}
    keys = re.findall(r"- (.+) = ", sample.context)
    assert len(set(keys)) == len(keys)


def test_long_keys_and_doubled_digits():
    sample = one("passkey64")
    (key,) = sample.references[0]
    assert len(key) == 64 and sample.context.count(key) == 2
    assert METRICS[sample.metric](key[:32] + "x", (key,)) == 0.5
    (number,) = one("infinite_number").references[0]
    assert len(number) == 10
    assert sum(a == b for a, b in pairwise(number)) >= 5


def test_numbers_asked_of_a_list():
    numbers = [5, 9, 9, 1, 7, 1, 3]
    assert [infinitebench.find_answer(numbers, what) for what in infinitebench.FINDS] == ["9", "7", "5", "1", "3", "5", "5"]
    assert infinitebench.find_answer([1, 2], "median") == "1.5"
    for sample in tasks.find("infinite_math_find").samples(7, 512, 0, tokens):
        what = dict(sample.about)["asked"]
        assert infinitebench.find_answer(json.loads(sample.context.removeprefix("List: ")), what) == sample.references[0][0]


def test_functions_give_the_value_that_python_computes():
    for sample in tasks.find("infinite_code_run").samples(6, 512, 0, tokens):
        call = re.search(r"func_\d+\(\d+\)", sample.questions[0]).group()
        space: dict = {}
        exec(sample.context, space)
        assert str(eval(call, space)) == sample.references[0][0]


def test_json_pairs_are_json():
    sample = one("infinite_kv")
    pairs = json.loads(sample.context.partition("JSON data:\n")[2])
    key = re.search(r'key "(.+?)"', sample.questions[0]).group(1)
    assert (pairs[key],) == sample.references[0]


def test_shared_contexts_have_several_independent_questions():
    for name in (n for n in tasks.names() if n.startswith("scbench")):
        assert len(one(name, 2048).questions) >= 2
        assert tasks.find(name).independent
    sample = one("scbench_many_shot")
    rule = dict(re.findall(r"Item: (\S+) \S+\nLabel: (\S+)", sample.context))
    asked = [re.search(r"Item: (\S+) (\S+)\n", q).groups() for q in sample.questions]
    assert [(rule[adjective],) for adjective, _ in asked] == list(sample.references)
    assert not any(noun in sample.context for _, noun in asked)
    sample = one("scbench_prefix_suffix", 2048)
    for question, (gold,) in zip(sample.questions, sample.references, strict=True):
        first, last = re.search(r'begins with "(.+?)" and ends with "(.+?)"', question).groups()
        assert [s for s in sample.context.split("\n") if s.startswith(first) and s.endswith(last)] == [gold]


def test_long_answers():
    for name in ("longgen_copy", "longgen_add"):
        sample = one(name, 512)
        questions = dict(re.findall(r"Question_(\d+): (.+)", sample.context))
        golds = dict(r.split("=") for r in sample.references[0])
        assert list(golds) == [str(i) for i in range(4, 4 + int(dict(sample.about)["questions"]))]
        for i, number in golds.items():
            assert int(number) == sum(map(int, re.findall(r"\d+", questions[i])))


def test_a_line_end_does_not_end_an_answer_of_several_lines(request):
    lm = request.getfixturevalue("bundled")  # the name is a module's here
    made = {name: Answers(lm, tasks.find(name).samples(1, 300, 0, tokens)[0], "requests", False, 512).ends for name in ("longgen_copy", "niah")}
    line = lm.encode("\n", special=False)[0]
    assert line in made["niah"] and made["longgen_copy"] == made["niah"] - {line} and lm.tokenizer.eos_token_id in made["longgen_copy"]


def test_scored_text_goes_on_where_the_context_ends():
    sample = one("ppl")
    assert tokens(sample.context) / tokens(sample.context + sample.continuation) == pytest.approx(0.75, abs=0.05)
    assert sample.continuation[0].isspace() and not sample.context[-1].isspace()
    assert tokens(sample.context) + tokens(sample.continuation) == tokens(sample.context + sample.continuation)
    assert tasks.find("ppl").better == "lower"
