"""Rows of instruction and preference data as conversations (dataprep/turns.py), whatever form they have.

dataprep/forms.py declares the forms. What stands before the answers is put together here: system, history, prompt.
"""

from dataprep.forms import (
    FORMS,
    HISTORY_COLUMN,
    INPUT_COLUMNS,
    MARK_COLUMNS,
    SYSTEM_COLUMNS,
    Form,
    content_columns,
    find_form,
)
from dataprep.turns import (
    AS_IT_IS,
    EMPTY,
    BadRow,
    EmptyText,
    Location,
    MarkedBad,
    Messages,
    NothingToLearn,
    RowOptions,
    clean,
    is_on,
    read_messages,
    read_turns,
    refuse_unread,
    require_text,
)
from tokenization.prompt_template import instruction_text


def text(row: object, row_name: object, options: RowOptions = AS_IT_IS) -> str:
    """Return the text of a row. Raises BadRow if it has none."""
    values = _require_dict(row, "text", row_name, options)
    form = find_form(values, "text", row_name)
    content = require_text(values[form.answers[0]], _column(form.answers[0], row_name))
    if not content:
        raise EmptyText(f"{row_name}: column {form.answers[0]!r} is empty")
    return content


def instruction(row: object, row_name: object, options: RowOptions = AS_IT_IS) -> Messages:
    """Return the conversation of a row. Raises BadRow with the row's name for an unusable row."""
    if isinstance(row, list):
        row = {"messages": row}
    values = _require_dict(row, "instruct", row_name, options)
    form = find_form(values, "instruct", row_name)
    _check_marks(values, row_name)

    (messages,) = _read_conversations(values, form, row_name, options)
    return _require_responses(messages, 0, form.answers[0], row_name)


def preference(
    row: object, row_name: object, options: RowOptions = AS_IT_IS
) -> tuple[Messages, Messages, int]:
    """Return (chosen, rejected, number of first turns in common). Raises BadRow for an unusable row."""
    values = _require_dict(row, "preference", row_name, options)
    form = find_form(values, "preference", row_name)
    _check_marks(values, row_name)

    chosen, rejected = _read_conversations(values, form, row_name, options)
    common = _common_turns(chosen, rejected)
    for messages, column in ((chosen, "chosen"), (rejected, "rejected")):
        _require_responses(messages, common, column, row_name)
    if common == min(len(chosen), len(rejected)):
        scope = "" if len(chosen) == len(rejected) else " as far as the shorter one goes"
        raise NothingToLearn(f"{row_name}: chosen and rejected are the same{scope}")
    if common == 0:
        raise BadRow(
            f"{row_name}: chosen and rejected have no turn in common: both must begin with the same prompt"
        )
    return chosen, rejected, common


def _require_dict(row: object, kind: str, row_name: object, options: RowOptions) -> dict:
    """Return the columns of a row, renamed, without the ignored ones. Raises BadRow for a row that is no object."""
    if not isinstance(row, dict):
        column = next(form.answers[0] for form in FORMS if form.kind == kind)
        advice = ": lists of turns are read with --kind instruct" if isinstance(row, list) else ""
        raise BadRow(f"{row_name} is a {type(row).__name__}, not an object with a column {column!r}{advice}")
    return options.apply(row)


def _column(column: str, row_name: object) -> Location:
    return Location(row_name, f"column {column!r}")


def _check_marks(row: dict, row_name: object) -> None:
    """Raise MarkedBad for a row that is marked as a bad answer, UnreadKey for one with a key that would be dropped."""
    refuse_unread(row, row_name)
    for column in MARK_COLUMNS:
        if not is_on(row.get(column), column, row_name):
            raise MarkedBad(f"{row_name}: {column!r} marks it as a bad answer")


# --- what stands before the answers ----------------------------------------------------------------------------------


def _read_conversations(row: dict, form: Form, row_name: object, options: RowOptions) -> list[Messages]:
    """Return the conversation that ends with each answer of a row. Raises BadRow if a column is not in them."""
    context = _history(row, row_name, options)
    prompt, used = _prompt(row, form, row_name, options)
    has_dialogues = form.kind == "preference"

    conversations = []
    for column in form.answers:
        location = _column(column, row_name)
        if form.prompt is None and form.kind == "instruct":
            answer = read_messages(row[column], location, options)
        else:
            answer = read_turns(row[column], "assistant", location, options, has_dialogues)
        messages = _join(context, prompt, answer, form, location)
        conversations.append(_with_system(row, messages, row_name))

    _check_unused(row, form, used, conversations, row_name, options)
    return conversations


def _prompt(row: dict, form: Form, row_name: object, options: RowOptions) -> tuple[Messages, set[str]]:
    """Return the turns before the answers (nothing of them is learned), and the input columns that they hold."""
    if form.prompt is None or row[form.prompt] in (None, ""):
        return [], set()
    location = _column(form.prompt, row_name)
    turns = read_turns(row[form.prompt], "user", location, options, has_dialogues=form.kind == "preference")
    if len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""}:
        turns = turns[:-1]  # "Assistant:", which the answer follows
    if form.kind == "instruct":
        turns = [turn | {"train": False} if turn["role"] == "assistant" else turn for turn in turns]

    inputs = [
        column for column in INPUT_COLUMNS if column != form.prompt and row.get(column) not in (None, "")
    ]
    if not inputs or not isinstance(row[form.prompt], str):
        return turns, set()
    if len(inputs) > 1:
        raise BadRow(f"{row_name} has both {inputs[0]!r} and {inputs[1]!r}: --ignore one of them")
    about = require_text(row[inputs[0]], _column(inputs[0], row_name))
    turns[-1]["content"] = instruction_text(turns[-1]["content"], about)
    return turns, set(inputs)


def _history(row: dict, row_name: object, options: RowOptions) -> Messages:
    """Return the earlier questions and answers in the column `history`: pairs, or turns."""
    history = row.get(HISTORY_COLUMN)
    if history in EMPTY:
        return []
    location = _column(HISTORY_COLUMN, row_name)
    if not isinstance(history, list) or not all(isinstance(pair, list) for pair in history):
        return read_messages(history, location, options)

    turns: Messages = []
    for pair in history:
        if len(pair) != 2:
            raise BadRow(f"{location} holds {pair!r:.40}, not a question and its answer")
        for role, content in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": clean(require_text(content, location))})
    return turns


def _join(context: Messages, prompt: Messages, answer: Messages, form: Form, location: Location) -> Messages:
    """Return the conversation of an answer, which may repeat the prompt. Raises BadRow where that is not clear."""
    questions = [_plain(turn) for turn in answer if turn["role"] != "assistant"]
    missing = [turn for turn in prompt if turn["role"] != "assistant" and _plain(turn) not in questions]
    if not prompt or not any(role == "user" for role, _ in questions):
        return context + prompt + answer
    if all(turn["role"] == "system" for turn in missing):
        return missing + context + answer
    if prompt[-1]["role"] == "assistant":
        return context + prompt + answer
    raise BadRow(
        f"{location} is a conversation in which {form.prompt!r} does not stand: --ignore {form.prompt} reads it alone"
    )


def _with_system(row: dict, messages: Messages, row_name: object) -> Messages:
    """Return the messages after the system turn of a row, if it has one. Raises BadRow for two different ones."""
    for column in SYSTEM_COLUMNS:
        if row.get(column) in (None, ""):
            continue
        system = {"role": "system", "content": clean(require_text(row[column], _column(column, row_name)))}
        if messages and messages[0]["role"] == "system":
            if _plain(messages[0]) != _plain(system):
                raise BadRow(f"{row_name} has a system turn and another {column!r}: --ignore {column}")
        elif system["content"]:
            messages = [system, *messages]
    return messages


def _check_unused(
    row: dict,
    form: Form,
    used: set[str],
    conversations: list[Messages],
    row_name: object,
    options: RowOptions,
) -> None:
    """Raise BadRow if a column that could be a prompt or an answer stands in none of the conversations."""
    turns = {_plain(turn)[1] for messages in conversations for turn in messages}
    unused = content_columns(form.kind) - {*form.columns} - used
    for column in sorted(unused & row.keys()):
        if row[column] in EMPTY:
            continue
        extra = read_turns(row[column], "user", _column(column, row_name), options)
        if not all(_plain(turn)[1] in turns for turn in extra):
            raise BadRow(
                f"{row_name} is read by {' and '.join(form.columns)}, and {column!r} says something else: "
                f"--ignore {column}, or --rename one of them"
            )


def _plain(turn: dict) -> tuple[str, str]:
    """Return what is compared of two turns: neither line ends nor white space around the content count."""
    content = turn["content"].replace("\r\n", "\n").replace("\r", "\n")
    return turn["role"], content.strip()


# --- what is learned -------------------------------------------------------------------------------------------------


def _common_turns(chosen: Messages, rejected: Messages) -> int:
    """Return the number of first turns that two conversations share."""
    count = 0
    for ours, other in zip(chosen, rejected, strict=False):
        if ours != other:
            break
        count += 1
    return count


def _require_responses(messages: Messages, num_prompt_turns: int, column: str, row_name: object) -> Messages:
    """Return the messages if the last turn is a response, and each that is learned has text. Raises BadRow."""
    if not messages or messages[-1]["role"] != "assistant":
        last = f"the {messages[-1]['role']}'s" if messages else "missing"
        raise BadRow(
            f"{row_name}: the last turn of {column!r} is {last}, not the assistant's: there is no response to learn"
        )
    learned = [
        turn
        for turn in messages[num_prompt_turns:]
        if turn["role"] == "assistant" and turn.get("train", True)
    ]
    if not all(turn["content"] for turn in learned):
        which = "a" if messages[-1]["content"] else "the"
        raise NothingToLearn(f"{row_name}: {which} response in {column!r} is empty")
    if not learned and num_prompt_turns < len(messages):
        raise NothingToLearn(f"{row_name}: no turn of {column!r} is learned")
    return messages
