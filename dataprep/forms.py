"""Forms of rows: the columns that each kind of data is read from, and which form a row has."""

import difflib
from dataclasses import dataclass

from dataprep.turns import AS_IT_IS, BadRow, RowOptions


@dataclass(frozen=True)
class Form:
    """Columns of one form of rows: `prompt` comes before each of `answers`; None where the answers hold it.

    `example` is its row in docs/DATA.md.
    """

    kind: str
    prompt: str | None
    answers: tuple[str, ...]
    example: dict | list

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that a row of this form must have."""
        return (*filter(None, [self.prompt]), *self.answers)


ASK = [{"role": "user", "content": "Hi"}]
TALK = [*ASK, {"role": "assistant", "content": "Hello!"}]
RUDE = [*ASK, {"role": "assistant", "content": "Go away."}]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]

# Of two forms that a row has, it is read as the first. In a row with history, its questions and answers come first.
FORMS = (
    Form("text", None, ("text",), {"text": "Once upon a time ..."}),
    Form("text", None, ("content",), {"content": "Once upon a time ..."}),
    Form("instruct", None, ("messages",), {"messages": TALK}),
    Form("instruct", None, ("conversations",), {"conversations": SHARED}),
    Form("instruct", "instruction", ("output",), {"instruction": "Add", "input": "1 and 2", "output": "3"}),
    Form(
        "instruct", "instruction", ("response",), {"instruction": "Add", "context": "1, 2", "response": "3"}
    ),
    Form("instruct", "prompt", ("completion",), {"prompt": "Hi", "completion": "Hello!"}),
    Form("instruct", "prompt", ("response",), {"prompt": "Hi", "response": "Hello!"}),
    Form("instruct", "question", ("answer",), {"question": "1 + 2?", "answer": "3"}),
    Form(
        "instruct", "question", ("response",), {"system": "Be kind.", "question": "1 + 2?", "response": "3"}
    ),
    Form("instruct", "query", ("response",), {"query": "1 + 2?", "response": "3"}),
    Form("instruct", "input", ("output",), {"input": "Hi", "output": "Hello!"}),
    Form(
        "preference",
        "prompt",
        ("chosen", "rejected"),
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."},
    ),
    Form(
        "preference",
        "conversations",
        ("chosen", "rejected"),
        {"conversations": SHARED[:1], "chosen": SHARED[1], "rejected": {"from": "gpt", "value": "Go away."}},
    ),
    Form(
        "preference",
        "instruction",
        ("chosen", "rejected"),
        {"instruction": "Add", "input": "1 and 2", "chosen": "3", "rejected": "4"},
    ),
    Form(
        "preference",
        "question",
        ("chosen", "rejected"),
        {"question": "1 + 2?", "chosen": "3", "rejected": "4"},
    ),
    Form("preference", None, ("chosen", "rejected"), {"chosen": TALK, "rejected": RUDE}),
)
KINDS = tuple(dict.fromkeys(form.kind for form in FORMS))

INPUT_COLUMNS = ("input", "context")  # what an instruction or question is about, beside it
SYSTEM_COLUMNS = ("system", "system_prompt")
HISTORY_COLUMN = "history"
MARK_COLUMNS = ("label", "kto_tag", "weight", "loss_weight")  # false: a bad answer, which is left out

MAX_NAMED = 12  # columns in an error message
SIMILAR = 0.6  # from here on, two names of columns probably mean the same


def find_form(row: dict, kind: str, row_name: object) -> Form:
    """Return the first form of a kind whose columns a row has, if possible with values. Raises BadRow without one."""
    forms = [form for form in FORMS if form.kind == kind]
    for form in forms:
        if all(row.get(column) is not None for column in form.columns):
            return form
    for form in forms:
        if all(column in row for column in form.columns):
            return form
    nearest = max(forms, key=lambda form: _likeness(row, form) / len(form.columns))
    missing = " and ".join(repr(column) for column in nearest.columns if column not in row)
    raise BadRow(f"{row_name} has no column {missing}; it has {_listed(row)}: {_advice(row, nearest)}")


def content_columns(kind: str) -> set[str]:
    """Return all columns that hold a prompt or an answer in some form of a kind."""
    columns = {column for form in FORMS if form.kind == kind for column in form.columns}
    return columns | set(INPUT_COLUMNS) if kind != "text" else columns


def _listed(row: dict) -> str:
    """Return the columns of a row for an error message."""
    names = [repr(name) for name in row][:MAX_NAMED]
    more = f" and {len(row) - MAX_NAMED} more" if len(row) > MAX_NAMED else ""
    return f"{', '.join(names)}{more}" if names else "none"


def _advice(row: dict, nearest: Form) -> str:
    """Return the flag that lets a row be read: --kind if another kind has its form, else --rename to the nearest."""
    for form in FORMS:
        if all(column in row for column in form.columns) and form.columns != ("content",):
            return f"{' and '.join(form.columns)} is read with --kind {form.kind}"

    old_names = _old_names(row, nearest)
    renames = [f"{old_names.get(new, 'COLUMN')}={new}" for new in nearest.columns if new not in row]
    return f"the nearest form of kind {nearest.kind} needs --rename {' '.join(renames)}"


def _likeness(row: dict, form: Form) -> float:
    """Return how well the columns of a row match those of a form, a point for each."""
    matches = _old_names(row, form)
    likeness = {column: _similarity(name.lower(), column) for column, name in matches.items()}
    return sum(1 if column in row else 0.9 * likeness.get(column, 0.0) for column in form.columns)


def _old_names(row: dict, form: Form) -> dict[str, str]:
    """Return the column of a row that each missing column of a form is most like, where one is like it."""
    free = [name for name in row if isinstance(name, str) and name not in form.columns]
    old_names = {}
    for column in form.columns:
        likeness = {name: _similarity(name.lower(), column) for name in free}
        best = max(free, key=likeness.__getitem__, default=None)
        if column not in row and best is not None and likeness[best] >= SIMILAR:
            old_names[column] = best
            free.remove(best)
    return old_names


def _similarity(name: str, column: str) -> float:
    """Return how alike two names are, from 0 to 1."""
    if column in name:
        return 0.9
    return difflib.SequenceMatcher(None, name, column).ratio()


def table_columns(kind: str, options: RowOptions = AS_IT_IS) -> tuple[str, ...] | None:
    """Return the columns that must be read from a table; None for all, since any may change what is learned."""
    if kind != "text":
        return None
    return ("text", "content", *(old for old, _ in options.rename))
