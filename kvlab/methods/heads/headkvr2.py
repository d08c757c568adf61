"""HeadKV-R2 (2024, arXiv 2410.19258). Card: methods/head_merge_retrieval.md, from the authors' code.

HeadKV with another table: heads count by the attention they give to the statement an answer rests on when one more step leads to it,
whether or not they copy. More heads do that, so the budget is spread more evenly.
"""

from dataclasses import dataclass
from typing import ClassVar

from kvlab.methods.heads.headkv import HeadKV


@dataclass(frozen=True)
class HeadKVR2(HeadKV):
    """Heads that find what an answer rests on get most of the budget, the same ones for every text."""

    name = "headkvr2"
    title = "HeadKV-R2"
    table: ClassVar[str] = "reasoning"
    departs = HeadKV.departs + " The step of reasoning is a variable set to another one."
