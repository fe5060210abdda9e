"""Packing: which conversations or pairs share a row, and truncation of those that are too long for one."""

import numpy as np

Document = tuple[
    np.ndarray, np.ndarray
]  # token ids (L,) and their loss mask (L,), True where a label has loss


def first_fit_decreasing(sizes: np.ndarray, room: int) -> list[np.ndarray]:
    """Pack items of sizes (I,), each in 1..room, into rows of `room`. Returns the items of each row.

    The largest items go first, each into the first row that has room for it. Items of one size are placed at
    once: the cumulative capacity of the rows says which row the n-th of them goes to.
    """
    row_of = np.empty(len(sizes), int)  # the row of each item
    free = np.full(len(sizes), room)  # the room left in each row: at most one row for each item is opened
    opened = 0

    for size in np.unique(sizes)[::-1]:
        items = np.flatnonzero(sizes == size)
        capacity = free[: opened + len(items)] // size  # how many of these items each row still takes
        rows = np.searchsorted(capacity.cumsum(), np.arange(len(items)), side="right")

        row_of[items] = rows
        opened = max(opened, int(rows[-1]) + 1)
        free[:opened] -= size * np.bincount(rows, minlength=opened)

    by_row = np.argsort(row_of, kind="stable")
    return np.split(by_row, np.flatnonzero(np.diff(row_of[by_row])) + 1)


def truncate_to_context(answers: list[Document], room: int) -> list[Document]:
    """Truncate answers that share a prompt to `room` tokens each.

    First drop the oldest prompt tokens, but keep at least room // 2 of the prompt; if that is not enough,
    drop the end of the answers. Answers of one prompt lose the same prompt tokens. The prompt is everything
    before the last response.
    """
    prompt_lengths = [_prompt_length(loss_mask) for _, loss_mask in answers]

    # Conversations of different lengths before the last response share no prompt: truncate each alone.
    if len(set(prompt_lengths)) > 1:
        return [truncate_to_context([answer], room)[0] for answer in answers]

    prompt = prompt_lengths[0]
    longest_response = max(len(ids) - prompt for ids, _ in answers)
    kept_prompt = max(room - longest_response, min(prompt, room // 2))

    # One prompt token always stays: the first token of the response is its label.
    dropped = min(max(0, prompt - kept_prompt), max(0, prompt - 1))
    return [(ids[dropped : dropped + room], mask[dropped : dropped + room]) for ids, mask in answers]


def _prompt_length(loss_mask: np.ndarray) -> int:
    """Return the number of tokens before the last response, 0 where every token has loss."""
    if loss_mask.all():
        return 0
    last_response = int((~loss_mask[::-1]).argmax())
    return len(loss_mask) - last_response
