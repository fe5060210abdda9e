"""Preview of a prepared dataset: one row as the model learns it, then counts and lengths of its split.

Tokens with loss are green, the others gray, truncated parts red. Control characters are escapes, as in Python, and so
is the first letter of text that only spells a special token: `<|endoftext|>` is the token, `\\x3c|endoftext|>` are its
letters.
"""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np

from dataloader.packing import truncate_to_context
from dataloader.summary import summary
from dataprep.shards import TokenDataset, read_meta
from runtime.errors import UserError
from tokenizer import Tokenizer, load_tokenizer

GREEN = "\x1b[32m"
GRAY = "\x1b[90m"
RED = "\x1b[31m"
PLAIN = "\x1b[0m"

MAX_SHOWN = 4096  # tokens of one text
# Controls, directions and invisible characters, separators of lines; unassigned and private ones.
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
LOOKS_LIKE_ESCAPE = re.compile(r"\\(?=\\*(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))")


def show(folder: Path, split: str, row: int, block_size: int | None) -> str:
    """Return row `row`, from 1, of a split for a terminal, and the summary of the split.

    A row is a text, a conversation, or both answers of a pair. With a block_size, red marks stand where training
    truncates. Raises UserError past the last row.
    """
    meta = read_meta(folder)
    dataset = TokenDataset(folder, split, meta)
    tokenizer = load_tokenizer(folder / "tokenizer")

    # Document 2i of preference data is the chosen, 2i + 1 the rejected answer of pair i.
    labels = [""]
    if meta["kind"] == "preference":
        labels = ["chosen: ", "rejected: "]

    rows = dataset.documents // len(labels)
    if not rows:
        raise UserError(f"the {split} set of {folder} is empty: show the other one with --split")
    if row > rows:
        raise UserError(
            f"--row {row}: the {split} set of {folder} has {rows:,} rows: choose a smaller number"
        )

    first = (row - 1) * len(labels)
    documents = [dataset.document(first + number) for number in range(len(labels))]

    # Truncate positions in place of ids, so that the tokens missing on either side can be counted.
    kept = [(np.arange(len(ids)), loss_mask) for ids, loss_mask in documents]
    if block_size and meta["kind"] != "text":
        kept = truncate_to_context(kept, block_size + 1)

    lines = [f"row {row:,} of {rows:,}, {split} set of {folder} ({meta['kind']})"]
    for label, (ids, _), (positions, loss_mask) in zip(labels, documents, kept, strict=True):
        positions = positions[:MAX_SHOWN]
        loss_mask = loss_mask[:MAX_SHOWN]
        before = int(positions[0])
        after = len(ids) - 1 - int(positions[-1])

        lines.append(f"{label}{len(ids):,} tokens, loss on {int(loss_mask.sum()):,} of those below")
        lines.append(_gap(before) + _colored_text(ids[positions], loss_mask, tokenizer) + _gap(after))
    return "\n".join([*lines, "", *summary(dataset, block_size)])


def _colored_text(ids: np.ndarray, loss_mask: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of ids (T,), colored by the loss mask (T,)."""
    changes = np.flatnonzero(np.diff(loss_mask)) + 1
    text = ""
    for stretch in np.split(np.arange(len(ids)), changes):
        color = GREEN if loss_mask[stretch[0]] else GRAY
        text += _colored(visible_text(ids[stretch], tokenizer), color)
    return text


def visible_text(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of ids (T,): special tokens by name, and escapes for what would hide or look like one."""
    special = {
        token_id: token.content
        for token_id, token in tokenizer.hf.get_added_tokens_decoder().items()
        if token.special
    }
    special[tokenizer.eos_id] = tokenizer.eos_token
    names = re.compile("|".join(map(re.escape, sorted(special.values(), key=len, reverse=True))))

    is_special = np.isin(ids, list(special))
    bounds = np.flatnonzero(is_special[1:] | is_special[:-1]) + 1
    parts = []
    for part in np.split(ids, bounds):
        if int(part[0]) in special:
            parts.append(special[int(part[0])])
        else:
            decoded = tokenizer.hf.decode(part.tolist(), skip_special_tokens=False)
            parts.append(_escaped(decoded, names))
    return "".join(parts)


def _escaped(text: str, names: re.Pattern[str]) -> str:
    """Return a text with escapes for hidden characters, and for the first letter of each name of a special token."""
    text = LOOKS_LIKE_ESCAPE.sub(r"\\\\", text)
    text = names.sub(lambda name: _escape(name[0][0]) + name[0][1:], text)
    return "".join(_escape(character) if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    """Return True for a character that a terminal does not show or obeys; line ends and tabs are text."""
    return character not in "\n\t" and unicodedata.category(character) in HIDDEN_CATEGORIES


def _escape(character: str) -> str:
    """Return the escape that Python writes for a character: \\x1b, \\u202e or \\U000e0001."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _gap(tokens: int) -> str:
    """Return the red mark of tokens that are not shown, nothing for none."""
    if tokens == 0:
        return ""
    return _colored(f"[... {tokens:,} tokens ...]", RED)


def _colored(text: str, color: str) -> str:
    """Return a text in a color, or plain where NO_COLOR is set."""
    if "NO_COLOR" in os.environ:
        return text
    return color + text + PLAIN
