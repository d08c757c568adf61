"""Full cache: every entry stays as it is. The reference of every comparison."""

from dataclasses import dataclass

from kvlab.method import Method


@dataclass(frozen=True)
class Full(Method):
    """Keeps every key and value in full precision."""

    name = "full"
    title = "Full cache"
    paper = "Vaswani et al., arXiv 1706.03762"
    year = 2017
