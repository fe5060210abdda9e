"""Ranked byte-level BPE: which tokenizers are one, and white space that tiktoken cannot encode."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from config import EOS
from tokenization.byte_bpe import LONG_SPACE, has_long_space, ranked_bpe, ranks_of
from tokenizer import from_ranks, load_tokenizer


def foreign(kind: str) -> tokenizers.Tokenizer:
    """Return a tokenizer that is not one of ours."""
    if kind == "words":
        hf = tokenizers.Tokenizer(
            models.WordLevel({"[UNK]": 0, "Once": 1, "upon": 2, EOS: 3}, unk_token="[UNK]")
        )
        hf.pre_tokenizer = pre_tokenizers.Whitespace()
        return hf
    if kind == "metaspace":
        hf = tokenizers.Tokenizer(models.BPE({"\u2581": 0, "a": 1, "\u2581a": 2, EOS: 3}, [("\u2581", "a")]))
        hf.pre_tokenizer = pre_tokenizers.Metaspace()
        return hf
    if kind == "unigram":
        hf = tokenizers.Tokenizer(
            models.Unigram([("\u0120", -1.0), ("a", -1.0), ("1", -2.0), (EOS, -9.0)], unk_id=0)
        )
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return hf
    hf = tokenizers.Tokenizer.from_str(from_ranks(RANKS).hf.to_str())
    if kind == "digits":  # cuts numbers before ByteLevel sees them, as Llama 3 does
        hf.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]
        )
    elif kind == "prefix space":
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "normalizer":
        hf.normalizer = tokenizers.normalizers.Lowercase()
    elif kind == "added word":
        hf.add_tokens(["time"])
    elif kind == "fewer merges":
        hf.model = models.BPE(json.loads(hf.to_str())["model"]["vocab"], [("1", "2")])
    return hf


RANKS = {bytes([i]): i for i in range(256)} | {b" a": 256, b"12": 257}
FOREIGN = [
    "words",
    "metaspace",
    "unigram",
    "digits",
    "prefix space",
    "normalizer",
    "added word",
    "fewer merges",
]


@pytest.mark.parametrize("kind", [*FOREIGN, "ours"])
def test_only_a_ranked_bpe_is_encoded_by_tiktoken(kind: str, tmp_path: Path) -> None:
    hf, own = foreign(kind), from_ranks(RANKS)
    assert bool(ranks_of(hf)) == (kind == "ours")
    hf.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert bool(loaded.fast) == (kind == "ours")
    text = "a Once upon 1212 a\u00e9 time"
    ids = hf.encode(text, add_special_tokens=False).ids
    assert loaded.encode(text) == ids
    assert (ids == own.encode(text)) == (kind == "ours")  # tiktoken would have given others


def test_only_long_runs_of_white_space_are_kept_from_tiktoken() -> None:
    run = " " * LONG_SPACE
    assert has_long_space(f"a{run}b") and not has_long_space(f"a{run[1:]}b{run[1:]}")


def test_a_tokenizer_without_some_bytes_is_not_given_to_tiktoken() -> None:
    ranks = {bytes([byte]): byte - 1 for byte in range(1, 256)}
    assert ranks_of(ranked_bpe(ranks)) is None
    assert ranks_of(ranked_bpe({bytes([byte]): byte for byte in range(256)})) is not None
