"""Rows of every kind as documents: token ids, loss mask, and the key that decides on their split."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dataprep import conversations, readers
from dataprep.files import HUB_PREFIX
from dataprep.forms import table_columns
from dataprep.holdout import conversation_key
from dataprep.left_out import LeftOutRows
from dataprep.long_texts import encode_text
from dataprep.ranges import FileRange
from dataprep.token_files import iter_token_documents
from dataprep.turns import AS_IT_IS, BadRow, Messages, RowOptions
from tokenization.guest_template import OTHER_TEMPLATE, RefusedByTemplate
from tokenizer import Tokenizer

# Token ids (T,), loss mask (T,) or None where every token counts, and the UTF-8 bytes of what is learned.
TokenPart = tuple[np.ndarray, np.ndarray | None, int]


@dataclass
class Document:
    """One text, one conversation, or the two conversations of a preference pair.

    Documents with equal split keys belong to the same split. A text that continues in the next document is not
    complete.
    """

    token_parts: list[TokenPart]
    split_key: str
    is_complete: bool = True
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_tokens = sum(len(ids) for ids, _, _ in self.token_parts)


def iter_documents(
    file_range: FileRange,
    kind: str,
    tokenizer: Tokenizer,
    options: RowOptions = AS_IT_IS,
    left_out: LeftOutRows | None = None,
) -> Iterator[Document]:
    """Yield the documents of a range of a file.

    Raises UserError with file and row for an unusable row, unless `left_out` collects them.
    """
    if file_range.format in ("txt", "part"):
        continues = file_range.format == "part" and file_range.start > 0
        for text, is_complete in readers.iter_texts(file_range):
            if text:
                yield text_document(text, is_complete, tokenizer, file_range.document, continues)
            continues = not is_complete
        return
    if file_range.format == "ds":
        for ids, key in iter_token_documents(file_range.path, file_range.start, file_range.stop, tokenizer):
            yield Document([(ids, None, tokenizer.text_bytes(ids))], key)
        return
    rows = readers.iter_rows(file_range, table_columns(kind, options))
    is_on_hub = file_range.path.startswith(HUB_PREFIX)
    yield from row_documents(rows, kind, tokenizer, options, left_out, is_on_hub)


def row_documents(
    rows: Iterable[tuple[object, object]],
    kind: str,
    tokenizer: Tokenizer,
    options: RowOptions = AS_IT_IS,
    left_out: LeftOutRows | None = None,
    is_on_hub: bool = False,
) -> Iterator[Document]:
    """Yield the documents of (row, its name in error messages) pairs.

    After a row that stops the run, the others are only counted. Raises UserError in the end, unless `left_out`
    collects them.
    """
    read, build = {
        "text": (conversations.text, _text),
        "instruct": (conversations.instruction, _instruct),
        "preference": (conversations.preference, _preference),
    }[kind]
    collected = LeftOutRows() if left_out is None else left_out
    for row, row_name in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            content = read(row, row_name, options)
        except BadRow as error:
            collected.add(error, is_on_hub, options.skip_bad_rows)
            continue
        if collected.first_error is None:
            try:
                yield build(content, tokenizer)
            except RefusedByTemplate as error:
                refusal = BadRow(f"{row_name}: {error}: {OTHER_TEMPLATE}")
                collected.add(refusal, is_on_hub, options.skip_bad_rows)

    if left_out is None:
        collected.raise_first()


def text_document(
    text: str, is_complete: bool, tokenizer: Tokenizer, key: str | None = None, continues: bool = False
) -> Document:
    """Return a text as a document; the end-of-text token follows a complete one.

    The key of a piece is given; a piece that is not the first continues the one before it.
    """
    ids = encode_text(text, tokenizer, is_complete, continues)
    return Document([(ids, None, len(text.encode()))], key or text, is_complete)


def truncate_text(document: Document, num_tokens: int, tokenizer: Tokenizer) -> Document | None:
    """Return the first tokens of a text; None for conversations, which are never truncated."""
    if document.num_tokens <= num_tokens:
        return document
    ids, loss_mask, _ = document.token_parts[0]
    if loss_mask is not None:
        return None
    num_bytes = tokenizer.text_bytes(ids[:num_tokens])
    return Document([(ids[:num_tokens], None, num_bytes)], document.split_key, is_complete=False)


def _text(text: str, tokenizer: Tokenizer) -> Document:
    return text_document(_ending_once(text, tokenizer), True, tokenizer)


def _instruct(messages: Messages, tokenizer: Tokenizer) -> Document:
    return Document([_conversation(messages, 0, tokenizer)], conversation_key(messages))


def _preference(pair: tuple[Messages, Messages, int], tokenizer: Tokenizer) -> Document:
    chosen, rejected, common = pair
    parts = [_conversation(messages, common, tokenizer) for messages in (chosen, rejected)]
    return Document(parts, conversation_key(chosen))


def _conversation(messages: Messages, num_prompt_turns: int, tokenizer: Tokenizer) -> TokenPart:
    """Return the ids and loss mask of a conversation; nothing of its first `num_prompt_turns` turns is learned."""
    turns = [turn | {"train": False} for turn in messages[:num_prompt_turns]]
    for turn in messages[num_prompt_turns:]:
        if turn["role"] == "assistant":
            turn = turn | {"content": _ending_once(turn["content"], tokenizer)}
        turns.append(turn)

    ids, loss_mask = tokenizer.render(turns)
    learned = [turn["content"] for turn in turns if turn["role"] == "assistant" and turn.get("train", True)]
    return np.array(ids, np.uint32), np.array(loss_mask), sum(len(response.encode()) for response in learned)


def _ending_once(text: str, tokenizer: Tokenizer) -> str:
    """Return a text without the letters of an end token at its end: the token itself follows it.

    A text of these letters alone stays as it is.
    """
    names = tokenizer.stop_tokens
    while end := next((name for name in names if text.endswith(name) and text != name), None):
        text = text.removesuffix(end).rstrip()
    return text
