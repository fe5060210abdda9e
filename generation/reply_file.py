"""Replies to a file of prompts: JSONL in, JSONL out, in batches, resumed where an earlier run ended.

A row is {"prompt": TEXT} or {"messages": [...]}, which ends with the user's turn; its other keys are kept. The reply
comes as "reply", with "end" (why it ended: end, stop, length or context) and "tokens".
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from config import ModelArgs
from generation.chat import ChatModel, Messages, sampling_params, stop_at
from generation.generate import generate, generate_batch
from runtime.errors import UserError
from runtime.progress import Progress

BATCH = 16  # prompts that are answered together
UNREAD = ("system", "tools", "functions", "documents", "images")  # keys of a row that would change the prompt


@dataclass(frozen=True)
class PromptRow:
    """Row of the file, and the token ids of its prompt."""

    values: dict
    ids: list[int]


def write_replies(
    chat_model: ChatModel,
    source: Path,
    target: Path,
    args: ModelArgs,
    system: Messages = (),
    raw: bool = False,
) -> int:
    """Append the replies that `target` lacks, one line for each row of `source`. Return the number of rows.

    Row n draws with seed + n, so a reply depends neither on the batch nor on where an earlier run ended. Raises
    UserError for a row that has no prompt or does not fit the context, and for a target that holds something else.
    """
    rows = [prompt_row(chat_model, values, where, system, raw) for values, where in read_rows(source)]
    finished = count_finished(rows, target)
    with (
        target.open("a", encoding="utf-8") as output,
        Progress("replies", "rows", len(rows), finished) as progress,
    ):
        for start in range(finished, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            replies = answer(chat_model, [row.ids for row in batch], args.replace(seed=_seed(args, start)))
            for row, reply in zip(batch, replies, strict=True):
                output.write(json.dumps(row.values | reply, ensure_ascii=False) + "\n")
            output.flush()
            os.fsync(output.fileno())
            progress.update(len(batch))
    return len(rows)


def read_rows(source: Path) -> list[tuple[dict, str]]:
    """Return (row, its name in messages) for each line. Raises UserError for a line that is no object."""
    if not source.is_file():
        raise UserError(
            f'--prompts {source} is no file: give a JSONL file, with rows like {{"prompt": TEXT}}'
        )
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--prompts {source} is no UTF-8: convert it with iconv -t utf-8") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 is no end of a row
        where = f"{source} row {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f"{where} is {line[:40]}, not an object with a prompt or messages")
        rows.append((values, where))
    if not rows:
        raise UserError(f"--prompts {source} has no rows")
    return rows


def prompt_row(chat_model: ChatModel, values: dict, where: str, system: Messages, raw: bool) -> PromptRow:
    """Return a row with its token ids. Raises UserError where it has no prompt, or one that does not fit."""
    for key in UNREAD:
        if values.get(key):
            raise UserError(
                f"{where} has {key!r}, which is not read here: give it as a turn of messages, or remove it"
            )
    if values.get("prompt") and values.get("messages"):
        raise UserError(f"{where} has both a prompt and messages: remove one of them")
    messages = values.get("messages")
    if messages is None and isinstance(values.get("prompt"), str):
        messages = [{"role": "user", "content": values["prompt"]}]
    if not _are_messages(messages):
        raise UserError(
            f'{where} has neither "prompt": TEXT nor "messages": a list of role (system, user or assistant) and '
            "content that ends with the user's turn"
        )
    if messages[0]["role"] != "system":
        messages = [*system, *messages]

    try:
        ids = chat_model.encode(messages, raw)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    context = chat_model.model.args.block_size
    if len(ids) >= context:
        raise UserError(
            f"{where}: the prompt has {len(ids)} tokens; the context holds {context}, the answer included: shorten it"
        )
    return PromptRow(values, ids)


def _are_messages(messages: object) -> bool:
    """Return True for a list of turns that ends with the user's."""
    if not isinstance(messages, list) or not messages:
        return False
    for turn in messages:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return False
        if turn.get("role") not in ("system", "user", "assistant"):
            return False
        if any(value for key, value in turn.items() if key not in ("role", "content")):
            return False  # tool calls, names and the like
    return messages[-1]["role"] == "user"


def count_finished(rows: list[PromptRow], target: Path) -> int:
    """Return the number of rows that a target already answers; a last line that was cut off is removed.

    Raises UserError for a target whose rows are not those of the source.
    """
    if not target.exists():
        return 0
    content = target.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    lines = complete.decode("utf-8", "replace").split("\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            answered = json.loads(line)
        except (ValueError, RecursionError):
            answered = None
        if number > len(rows) or not _answers(rows[number - 1], answered):
            raise UserError(
                f"--to {target} row {number} does not answer row {number} of --prompts: choose another file for --to"
            )
    if len(complete) < len(content):
        os.truncate(target, len(complete))
    return len(lines)


def _answers(row: PromptRow, answered: object) -> bool:
    """Return True if a line of the target holds a row and its reply."""
    return isinstance(answered, dict) and "reply" in answered and answered | row.values == answered


def answer(chat_model: ChatModel, prompts: list[list[int]], args: ModelArgs) -> list[dict]:
    """Return reply, end and tokens for each prompt; prompt n draws with seed + n."""
    context = chat_model.model.args.block_size
    longest = max(map(len, prompts))
    is_together = longest + args.max_length <= context and args.num_beams == 1
    if not is_together and len(prompts) > 1:
        # The longest prompt would end all of them at the end of the context.
        return [
            answer(chat_model, [ids], args.replace(seed=_seed(args, number)))[0]
            for number, ids in enumerate(prompts)
        ]

    room = min(args.max_length, context - longest)
    params = sampling_params(args)
    if len(prompts) == 1:
        outputs = [list(generate(chat_model.model, prompts[0], room, chat_model.stop_ids, params))]
    else:
        steps = list(generate_batch(chat_model.model, prompts, room, chat_model.stop_ids, params))
        columns = list(zip(*steps, strict=True)) if steps else [()] * len(prompts)
        outputs = [[token for token in column if token is not None] for column in columns]
    return [_reply(chat_model, *pair, args, room) for pair in zip(prompts, outputs, strict=True)]


def _reply(chat_model: ChatModel, prompt_ids: list[int], ids: list[int], args: ModelArgs, room: int) -> dict:
    """Return the text of a reply, as a stream shows it, and why it ended."""
    next_text = chat_model.tokenizer.stream_decoder(() if chat_model.is_instruct else prompt_ids)
    pieces = (next_text(token) or "" for token in ids)
    text, held, stopped = stop_at("".join(pieces), args.stop)
    end = "end"
    if stopped:
        end = "stop"
    elif len(ids) >= room:
        end = "length" if room == args.max_length else "context"
    return {"reply": text if stopped else text + held, "end": end, "tokens": len(ids)}


def _seed(args: ModelArgs, number: int) -> int | None:
    return None if args.seed is None else args.seed + number
