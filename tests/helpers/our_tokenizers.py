"""Tokenizers that tests of tokenizer.py share: GPT-2's, plain bytes, and one trained on a small corpus."""

from pathlib import Path

from tokenizer import Tokenizer, byte_level, gpt2, train_bpe

CORPUS = [
    "Once upon a time there was a little fox. " * 3,
    "The fox sat at the café; the owl laughed: ha ha ha!",
] * 20
KINDS = ["gpt2", "bytes", "trained"]


def make_tokenizers() -> dict[str, Tokenizer]:
    """Return a tokenizer of each kind."""
    return {"gpt2": gpt2(), "bytes": byte_level(), "trained": train_bpe(CORPUS, 300)}


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    """Save a tokenizer into a new folder, and return the folder."""
    folder.mkdir()
    tokenizer.save(folder)
    return folder
