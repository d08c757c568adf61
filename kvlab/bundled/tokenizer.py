"""Byte-level BPE whose numbers are cut into groups of at most three digits, one token a group.

Letters and punctuation are learned from training text; the merges that build
every group "000" to "999", with and without a space before it, are added by
hand, so a six-digit code is always exactly two tokens.
"""

from __future__ import annotations

import json
import random
import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kvlab.bundled import forms, natural

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPLIT = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACE = "\u0120"  # byte-level BPE's letter for a space


def training_text(seed: int, documents: int = 3000) -> list[str]:
    """Generated and natural texts without digits (digit merges are added by hand)."""
    rng = random.Random(f"tokenizer-{seed}")
    texts = []
    for i in range(documents):
        sample = forms.make(rng.choice(list(forms.FORMS)), f"tokenizer-{seed}-{i}", 128)
        texts += [sample.context, *sample.questions]
    return [re.sub(r"\d+", "", t) for t in (*texts, *natural.documents(False))]


def _digit_merges() -> list[tuple[str, str]]:
    pairs = [f"{i:02d}" for i in range(100)]
    merges = [(p[0], p[1]) for p in pairs]
    merges += [(p, str(d)) for p in pairs for d in range(10)]
    merges += [(str(d), p) for p in pairs for d in range(10)]  # "644" meets "44" before "64"
    return merges + [(_SPACE, f"{i:03d}") for i in range(1000)]


def build(seed: int = 0, learned: int = 1100) -> PreTrainedTokenizerFast:
    """Tokenizer with 256 bytes, `learned` merges of text and 3,100 merges of digits (2,100 tokens)."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=256 + learned,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(training_text(seed), trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]] + _digit_merges()
    vocab = {t: i + 3 for t, i in sorted(model["vocab"].items(), key=lambda item: item[1])}
    for left, right in _digit_merges():
        vocab.setdefault(left + right, len(vocab) + 3)
    vocab = {BOS: 0, EOS: 1, PAD: 2, **vocab}
    return _wrap(vocab, merges, splitter)


def _wrap(vocab, merges, splitter) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
