"""Scores of answers, against cases worked out by hand."""

import pytest

from kvlab.tasks.metrics import METRICS

CASES = [
    # RULER: the card's case, then case and nothing at all
    ("contains_all", "b D", ["a", "b", "c", "d"], 0.5),
    ("contains_all", "ABCDE and fghij", ["abcde", "FGHIJ"], 1.0),
    ("contains_all", "", ["a"], 0.0),
    ("contains_all_rounded", "A and C", ["A", "B", "C"], 0.67),
    ("contains_any", "It lies in PARIS.", ["Rome", "Paris"], 1.0),
    ("contains_any", "London", ["Rome", "Paris"], 0.0),
    ("substring", "the value is 3f-9a.", ["3f-9a"], 1.0),
    ("substring", "3F-9A", ["3f-9a"], 0.0),
    ("exact", " Paris \n", ["paris"], 1.0),
    ("exact", "Paris.", ["Paris"], 0.0),
    ("exact_sentence", " Paris. The end", ["Paris"], 1.0),
    ("exact_sentence", " 3.14 is pi. More", ["3.14 is pi"], 1.0),
    ("exact_sentence", "Paris and Rome.", ["Paris"], 0.0),
    ("exact_sentence", "Paris\nRome", ["Paris"], 1.0),
    # passkeys: the first maximal run of digits
    ("passkey", "The key is 12345. 99", ["12345"], 1.0),
    ("passkey", "123456", ["12345"], 0.0),
    ("passkey", "none", ["12345"], 0.0),
    ("passkey_prefix", "key 12399 12345", ["12345"], 0.6),
    ("passkey_prefix", "12345678", ["12345"], 1.0),
    ("passkey_prefix", "", ["12345"], 0.0),
    ("passkey_lcs", "12945", ["12345"], 0.8),
    ("passkey_lcs", "2345", ["12345"], 0.8),
    # LongBench
    ("f1", "The cat sat.", ["a cat sat"], 1.0),
    ("f1", "cat cat dog", ["cat mouse"], 0.4),  # one of three, one of two
    ("f1", "nothing", ["else", "no"], 0.0),
    ("f1", "the a", ["the"], 0.0),  # both empty once normalised
    ("f1_first_line", "\ncat\ndog", ["cat"], 1.0),
    ("f1_zh", "北京。", ["北京市"], 0.8),
    ("rouge_l", "the cat lay on a mat", ["the cat sat on the mat"], 4 / 6),  # the, cat, on, mat
    ("rouge_l", "", ["cat"], 0.0),
    ("rouge_l_first_line", "cat sat\nand more words here", ["cat sat"], 1.0),
    ("rouge_lsum", "b c\na", ["a\nb c"], 1.0),  # each line of the reference finds its own
    ("rouge_l_zh", "北京大学", ["北大"], 2 / 3),
    ("classes", "ab", ["ab", "", "a", "ab"], 1.0),  # "a" is part of the gold and taken out
    ("classes", "ab or c", ["ab", "", "a", "ab", "c"], 0.5),
    ("classes", "abc", ["abc", "", "a", "b", "abc"], 0.5),  # taking "a" out skips "b"
    ("classes", "c", ["ab", "", "ab", "c"], 0.0),
    ("classes_first_line", "c\nab", ["ab", "", "ab", "c"], 0.0),
    ("count", "Paragraph 3 or 4", ["Paragraph 3"], 0.5),
    ("count", "13", ["3"], 0.0),
    ("count", "none", ["3"], 0.0),
    ("edit_sim", "\n# comment\n`x`\nreturn a", ["return a"], 1.0),
    ("edit_sim", "abcd", ["abxd"], 0.75),
    ("edit_sim", "abc", ["abd"], 0.67),  # rounded to whole percent
    ("edit_sim", "# only a comment", ["x"], 0.0),
    # SCBench's multiple choice and its quirks
    ("choice", "C. foo", ["C"], 1.0),
    ("choice", "the answer is: B", ["B"], 1.0),
    ("choice", "answer is: B", ["B"], 1.0),
    ("choice", "Answer: B", ["B"], 0.0),
    ("choice", "Answer: B", ["A"], 1.0),
    ("choice", "I think D", ["D"], 1.0),
    ("choice", "the red one", ["D", "the red one"], 1.0),
    ("choice", "option is", ["D"], 0.0),
    ("choice", "", ["A"], 0.0),
    ("code_debug", "B. foo", ["foo", "B"], 1.0),
    ("code_debug", "the answer is: foo", ["foo", "B"], 1.0),
    ("code_debug", "answer: bar", ["foo", "B"], 0.0),
    ("code_debug", "foo", ["foo", "B"], 0.0),  # no prefix: not looked for
    ("repo_function", "```python\ndef f(x):\n    return x + 1\n```\nDone.", ["def f(x):\n    return x + 1", "", "def g(y):\n    return y"], 1.0),
    ("repo_function", "def g(y):\n    return y", ["def f(x):\n    return x + 1", "", "def g(y):\n    return y"], 0.0),
    ("repo_function", "", ["def f(): pass"], 0.0),
    # InfiniteBench
    ("first_number", "It is 97, not 98", ["97"], 1.0),
    ("first_number", "97.9", ["97"], 1.0),
    ("first_number", "97.5", ["97.5"], 1.0),
    ("first_number", "many", ["97"], 0.0),
    ("last_integer", "func_1(3) is -4.", ["-4"], 1.0),
    ("last_integer", "4 apples", ["4"], 0.0),
    ("last_integer", "", ["4"], 0.0),
    ("words", 'Value: "3f-9a".', ["3f-9a"], 1.0),
    ("words", "x3f-9a", ["3f-9a"], 0.0),
    ("math_calc", "[4, 8, 5]", ["4", "8", "6", "5"], 0.5),
    ("math_calc", "4 8 6 5 1", ["4", "8", "6", "5"], 1.0),
    # LongGenBench: question 2 skipped
    ("longgen", "Answer_1: The answer is 5.\nAnswer_3: The answer is 7.", ["1=5", "2=6", "3=7"], 1 / 3),
    ("longgen_index", "Answer_1: The answer is 5.\nAnswer_3: The answer is 7.", ["1=5", "2=6", "3=7"], 2 / 3),
    ("longgen", "Answer_1: the answer is 1,000.", ["1=1"], 1.0),  # only digits are read
    ("longgen_index", "Answer_1: no idea.\nAnswer_2: The answer is 6.", ["1=6", "2=6"], 0.5),
    ("longgen", "Answer_1: no idea.\nAnswer_2: The answer is 6.", ["1=6", "2=6"], 0.5),
]


@pytest.mark.parametrize(("name", "answer", "references", "score"), CASES)
def test_hand_cases(name, answer, references, score):
    assert METRICS[name](answer, tuple(references)) == pytest.approx(score)


def test_every_metric_has_a_hand_case_and_stays_in_range():
    assert {name for name, *_ in CASES} == set(METRICS)
    assert all(0 <= score <= 1 for *_, score in CASES)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_hostile_answer_gets_a_score(name):
    references = {"code_debug": ("foo", "B"), "longgen": ("1=2",), "longgen_index": ("1=2",)}.get(name, ("12", "", "7") if "classes" in name else ("12",))
    for answer in ("", "\x00", "```", "9" * 5000, "٣ ² Answer_: answer is", "-", "<script>**A**"):
        assert 0 <= METRICS[name](answer, references) <= 1
