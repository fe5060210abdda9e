"""Rows of every kind as documents: token ids, what of them is learned, and what decides on their split."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from config import EOS
from dataprep import conversations, sources
from dataprep.sources import Span
from tokenizer import Tokenizer


class Document(NamedTuple):
    """One text or conversation, or the two of a preference pair.

    parts are (ids (T,), keep (T,), UTF-8 length of what is learned), keep None where everything is; equal keys go to
    the same split. A text that goes on in the next document has not ended.
    """

    parts: list[tuple[np.ndarray, np.ndarray | None, int]]
    key: str
    ended: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(len(ids) for ids, _, _ in self.parts)


def documents(span: Span, kind: str, tokenizer: Tokenizer) -> Iterator[Document | None]:
    """The documents of a span of a file; None for one in which there is nothing to learn.

    Raises UserError with file and row for a row that is not usable. A row of the hub's that is well-formed and teaches
    nothing is None, since its user cannot mend it.
    """
    if span.form in ("txt", "part"):
        yield from (text_document(text, ended, tokenizer) if text else None for text, ended in texts(span))
    else:
        lenient = span.path.startswith("hf://")
        yield from row_documents(sources.rows(span, conversations.COLUMNS[kind]), kind, tokenizer, lenient)


def texts(span: Span) -> Iterator[tuple[str, bool]]:
    """(text, ended) of each document in a span of a .txt file; only the last part of a long one has ended."""
    text, at_end = sources.plain_text(span)
    if span.form == "part":
        yield text, at_end
    else:
        yield from ((document.strip(), True) for document in text.split(EOS) if document.strip())


def row_documents(
    rows: Iterable[tuple[object, object]], kind: str, tokenizer: Tokenizer, lenient: bool = False
) -> Iterator[Document | None]:
    """The documents of rows, each given with the words that name it."""
    make = {"text": _text, "instruct": _instruct, "preference": _preference}[kind]
    for row, where in rows:
        try:
            yield make(row, where, tokenizer)
        except conversations.NothingToLearn:
            if not lenient:
                raise
            yield None


def text_document(text: str, ended: bool, tokenizer: Tokenizer) -> Document:
    """A text, which the end-of-text token ends."""
    ids = tokenizer.encode_array(text)
    ids = np.append(ids, np.uint32(tokenizer.eos_id)) if ended else ids
    return Document([(ids, None, len(text.encode()))], text, ended)


def cut(document: Document, tokens: int, tokenizer: Tokenizer) -> Document | None:
    """The first tokens of a text; None for conversations, which stay whole."""
    if document.tokens <= tokens:
        return document
    (ids, keep, _), *_ = document.parts
    if keep is not None:
        return None
    text = tokenizer.decode(ids[:tokens])
    return Document([(ids[:tokens], None, len(text.encode()))], document.key, ended=False)


def _text(row: object, where: object, tokenizer: Tokenizer) -> Document | None:
    text = conversations.text(row, "text", where)
    return text_document(text, True, tokenizer) if text else None


def _instruct(row: object, where: object, tokenizer: Tokenizer) -> Document:
    messages = conversations.instruction(row, where)
    return _conversations([messages], messages[:-1], 0, tokenizer)


def _preference(row: object, where: object, tokenizer: Tokenizer) -> Document:
    chosen, rejected, same = conversations.preference(row, where)
    return _conversations([chosen, rejected], chosen[:same], same, tokenizer)


def _conversations(
    talks: list[conversations.Messages], prompt: conversations.Messages, given: int, tokenizer: Tokenizer
) -> Document:
    """A document of conversations of which the first `given` turns are not learned."""
    parts = []
    for messages in talks:
        ids, keep = tokenizer.render(messages)
        keep = np.array(keep)
        keep[: len(tokenizer.render(messages[:given])[0])] = False
        answers = (turn["content"].strip() for turn in messages[given:] if turn["role"] == "assistant")
        parts.append((np.array(ids, np.uint32), keep, sum(len(answer.encode()) for answer in answers)))
    return Document(parts, json.dumps(prompt))
