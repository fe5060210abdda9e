"""Check of a tokenizer on the first texts of a dataset: what it cannot write is lost to the model."""

import os
from collections import Counter
from collections.abc import Iterator

from dataprep.documents import Document, iter_documents, row_documents
from dataprep.left_out import LeftOutRows
from dataprep.registry import STORIES, Source, story_rows
from dataprep.turns import RowOptions
from runtime.errors import UserError
from runtime.hub import retry
from tokenizer import Tokenizer, byte_level

SAMPLE = 50_000  # characters that are compared
NEEDED = {"#": "'#'", "\n": "line ends", " ": "blanks"}  # of the prompt template, and of nearly every text
MOST = 0.5  # lost share of one of these from which on the tokenizer is refused
MUCH = 0.1  # lost share of all characters
EXCERPT = 32  # characters of a text in a message


def check_tokenizer(tokenizer: Tokenizer, name: str, source: Source, options: RowOptions) -> None:
    """Print a note if a tokenizer changes the first texts of a dataset. Raises UserError where too much is lost.

    Byte-level tokenizers of our own lose nothing and are not tried.
    """
    if tokenizer.ranks is not None:
        return
    try:
        letters = tokenizer.encode(tokenizer.eos_token)
    except Exception as error:  # tokenizers raises bare Exception, as for a missing unknown token
        raise UserError(f"--tokenizer {name} cannot encode a text ({error}): use another folder") from None
    if tokenizer.eos_id in letters:
        raise UserError(
            f"--tokenizer {name} reads the letters {tokenizer.eos_token} in a text as the end of the text: use gpt2, "
            "bytes, bpe or another folder"
        )

    texts = retry(lambda: list(first_texts(source, options)), "the first rows")
    decoded = [_read_back(text, tokenizer) for text in texts]
    characters = sum((Counter(text) for text in texts), Counter())
    lost = characters - sum((Counter(text) for text in decoded), Counter())
    if not lost:
        return

    example = next(_difference(*pair) for pair in zip(texts, decoded, strict=True) if pair[0] != pair[1])
    unwritable = [NEEDED[c] for c in NEEDED if lost[c] > MOST * characters[c]]
    share = lost.total() / characters.total()
    if unwritable or share > MUCH:
        what_is_lost = " and ".join(unwritable) or f"{share:.0%} of the text"
        raise UserError(
            f"--tokenizer {name} cannot write {what_is_lost}: {example}; use gpt2, bytes, bpe or another folder"
        )
    listed = ", ".join(repr(character) for character, _ in lost.most_common(8))
    print(f"note: --tokenizer {name} loses {share:.2%} of the text, such as {listed}: {example}")


def first_texts(source: Source, options: RowOptions) -> Iterator[str]:
    """Yield the first texts or rendered conversations of a dataset, SAMPLE characters of them."""
    read = byte_level()  # its ids are the bytes of the text
    room = SAMPLE
    for document in _documents(source, read, options):
        for ids, _, _ in document.token_parts:
            text = read.decode(ids[: 4 * room])[:room]
            room -= len(text)
            yield text
        if room <= 0:
            return


def _documents(source: Source, read: Tokenizer, options: RowOptions) -> Iterator[Document]:
    """Yield the documents of a dataset, without the rows that cannot be read."""
    for file_range in source.ranges:
        if file_range.format in STORIES:
            rows = story_rows(file_range, source.provenance["seed"])
            yield from row_documents(rows, source.kind, read)
        elif file_range.format != "ds":  # its tokens are final
            yield from iter_documents(file_range, source.kind, read, options, LeftOutRows())


def _read_back(text: str, tokenizer: Tokenizer) -> str:
    """Return what a text is after encoding and decoding; unknown tokens are written by their name."""
    decoded = tokenizer.hf.decode(tokenizer.encode(text), skip_special_tokens=False)
    return decoded if text.startswith(" ") else decoded.removeprefix(" ")


def _difference(text: str, decoded: str) -> str:
    """Return the place where two texts begin to differ, as a part of a message."""
    start = max(0, len(os.path.commonprefix([text, decoded])) - EXCERPT // 2)
    part = slice(start, start + EXCERPT)
    return f"{text[part]!r} is read back as {decoded[part]!r}"
