"""Rows after the documented formats of public tools and datasets: which tokens are learned, or the line of a refusal.

The expected tokens are written out from the prompt template, byte by byte, without the project's code; where a
conversation's answers are all learned, transformers' mask of the template with generation marks is a second witness.
"""

import json
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
import transformers

from dataprep.shards import TokenDataset, read_meta
from tokenizer import byte_level

inline, command = prepared.inline, prepared.command

# A part of a conversation: its text, and whether it is learned; an answer is followed by the end-of-text token.
Part = tuple[str, bool, bool]


def system(text: str) -> Part:
    return f"### System:\n{text}\n\n", False, False


def user(text: str) -> Part:
    return f"### Instruction:\n{text}\n\n", False, False


def answer(text: str, learned: bool = True) -> list[Part]:
    return [("### Response:\n", False, False), (text, learned, True)]


def tokens(*parts: Part | list[Part]) -> list[tuple[int, bool]]:
    """Return (token id, learned) of the bytes of a conversation."""
    flat = [part for item in parts for part in (item if isinstance(item, list) else [item])]
    return [
        pair
        for text, learned, ends in flat
        for pair in [*((byte, learned) for byte in text.encode()), *[(256, learned)] * ends]
    ]


def chat(*turns: tuple[str, str], keys: tuple[str, str] = ("role", "content")) -> list[dict[str, str]]:
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


def shared(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return chat(*turns, keys=("from", "value"))


ASK = ("user", "What color is the sky?")
BLUE = ("assistant", "It is blue.")
GREEN = ("assistant", "It is green.")
TALK = [system("Be brief."), user("Hi"), answer("Hello!"), user("Bye"), answer("See you.")]
TALK_TURNS = (
    ("system", "Be brief."),
    ("user", "Hi"),
    ("assistant", "Hello!"),
    ("user", "Bye"),
    ("assistant", "See you."),
)
SKY = [user("What color is the sky?"), answer("It is blue.")]
SHARED_TURNS = (("human", "Hi"), ("gpt", "Hello!"), ("human", "Bye"), ("gpt", "See you."))

TEXTS = {
    "TRL: language modeling": {"text": "The sky is blue."},
    "LLaMA-Factory: pretraining": {"text": "document"},
    "axolotl: completion": {"text": "The sky is blue.\n\nIt is."},
    "MLX: text": {"text": "This is an example for the model."},
    "torchtune: text completion": {"text": "Once upon a time"},
    "minimind: pretraining": {"text": "如何才能摆脱拖延症？"},
    "FineWeb": {
        "text": "How AP reported it",
        "id": "<urn:uuid:1>",
        "dump": "CC",
        "url": "x",
        "token_count": 9,
    },
    "The Stack": {"content": "def one():\n    return 1", "size": 23, "lang": "Python", "ext": "py"},
}

INSTRUCT = {
    "TRL: conversational": ({"messages": chat(ASK, BLUE)}, SKY),
    "TRL: prompt and completion": (
        {"prompt": "The sky is", "completion": " blue."},
        [user("The sky is"), answer(" blue.")],
    ),
    "TRL: prompt and completion of turns": ({"prompt": chat(ASK), "completion": chat(BLUE)}, SKY),
    "TRL: unpaired preference, good": (
        {"prompt": ASK[1], "completion": BLUE[1], "label": True},
        SKY,
    ),
    "LLaMA-Factory: Alpaca": (
        {
            "instruction": "Add",
            "input": "1 and 2",
            "output": "3",
            "system": "Be brief.",
            "history": [["Hi", "Hello!"], ["Bye", "See you."]],
        },
        [*TALK, user("Add\n\n### Input:\n1 and 2"), answer("3")],
    ),
    "LLaMA-Factory: KTO, good": (
        {"instruction": "Add", "input": "", "output": "3", "kto_tag": True},
        [user("Add"), answer("3")],
    ),
    "LLaMA-Factory: ShareGPT": (
        {"conversations": shared(*SHARED_TURNS), "system": "Be brief.", "tools": ""},
        TALK,
    ),
    "LLaMA-Factory: OpenAI": ({"messages": chat(*TALK_TURNS)}, TALK),
    "axolotl: chat_template with training marks": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!", "training": False},
                {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "See you.", "training": True},
            ]
        },
        [user("Hi"), answer("Hello!", False), user("Bye"), answer("See you.")],
    ),
    "axolotl: gpteacher": (
        {"instruction": "Add", "input": "1 and 2", "response": "3"},
        [user("Add\n\n### Input:\n1 and 2"), answer("3")],
    ),
    "axolotl: context_qa": (
        {"context": "A fox is red.", "question": "Which color?", "answer": "Red."},
        [user("Which color?\n\n### Input:\nA fox is red."), answer("Red.")],
    ),
    "OpenAI: chat with weights": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!", "weight": 0},
                {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "See you.", "weight": 1},
            ]
        },
        [system("Be brief."), user("Hi"), answer("Hello!", False), user("Bye"), answer("See you.")],
    ),
    "OpenAI: text parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK[1]}]}, *chat(BLUE)]},
        SKY,
    ),
    "MLX: chat": ({"messages": chat(*TALK_TURNS)}, TALK),
    "MLX: completions": ({"prompt": ASK[1], "completion": BLUE[1]}, SKY),
    "torchtune: instruct": ({"input": ASK[1], "output": BLUE[1]}, SKY),
    "torchtune: ShareGPT": (
        {"conversations": shared(("system", "Be brief."), *SHARED_TURNS)},
        TALK,
    ),
    "minimind: SFT": ({"conversations": chat(*TALK_TURNS)}, TALK),
    "minimind: SFT with empty keys": (
        {"conversations": [turn | {"reasoning_content": "", "tools": ""} for turn in chat(*TALK_TURNS)]},
        TALK,
    ),
    "minimind: reasoning inside the text": (
        {
            "conversations": chat(
                ASK, ("assistant", "<think>\nIt is day.\n</think>\n<answer>\nblue\n</answer>")
            )
        },
        [user(ASK[1]), answer("<think>\nIt is day.\n</think>\n<answer>\nblue\n</answer>")],
    ),
    "self-instruct: finetuning": (
        {"prompt": "Task: Name a color.\n\n", "completion": " Red<|endoftext|>"},
        [user("Task: Name a color."), answer(" Red")],
    ),
    "GSM8K": (
        {"question": "Half of 8?", "answer": "8 / 2 = <<8/2=4>>4\n#### 4"},
        [user("Half of 8?"), answer("8 / 2 = <<8/2=4>>4\n#### 4")],
    ),
    "Dolly": (
        {"instruction": "Which?", "context": "Red, blue", "response": "Red", "category": "closed_qa"},
        [user("Which?\n\n### Input:\nRed, blue"), answer("Red")],
    ),
    "OpenOrca": (
        {"id": "niv.1", "system_prompt": "Be brief.", "question": "1 + 2?", "response": "3"},
        [system("Be brief."), user("1 + 2?"), answer("3")],
    ),
    "UltraChat": (
        {"prompt": "Hi", "prompt_id": "f0", "messages": chat(*TALK_TURNS[1:])},
        TALK[1:],
    ),
    "SmolTalk": ({"messages": chat(*TALK_TURNS), "source": "everyday"}, TALK),
    "MetaMath": (
        {"query": "1 + 2?", "response": "3", "original_question": "1 + 2 = ?", "type": "GSM_Rephrased"},
        [user("1 + 2?"), answer("3")],
    ),
    "HelpSteer": (
        {"prompt": ASK[1], "response": BLUE[1], "helpfulness": 4, "verbosity": 1},
        SKY,
    ),
}

PREFERENCE = {
    "TRL: explicit prompt": ({"prompt": ASK[1], "chosen": BLUE[1], "rejected": GREEN[1]}, []),
    "TRL: explicit prompt of turns": (
        {"prompt": chat(ASK), "chosen": chat(BLUE), "rejected": chat(GREEN)},
        [],
    ),
    "TRL: implicit prompt": ({"chosen": chat(ASK, BLUE), "rejected": chat(ASK, GREEN)}, []),
    "LLaMA-Factory: Alpaca": (
        {"instruction": ASK[1], "input": "", "chosen": BLUE[1], "rejected": GREEN[1]},
        [],
    ),
    "LLaMA-Factory: ShareGPT": (
        {
            "conversations": shared(("human", ASK[1])),
            "chosen": {"from": "gpt", "value": BLUE[1]},
            "rejected": {"from": "gpt", "value": GREEN[1]},
        },
        [],
    ),
    "axolotl: chatml.intel (Orca pairs)": (
        {"system": "Be brief.", "question": ASK[1], "chosen": BLUE[1], "rejected": GREEN[1]},
        [system("Be brief.")],
    ),
    "axolotl: chatml.ultra": (
        {"system": "Be brief.", "prompt": ASK[1], "chosen": chat(ASK, BLUE), "rejected": chat(ASK, GREEN)},
        [system("Be brief.")],
    ),
    "UltraFeedback, binarized": (
        {
            "prompt": ASK[1],
            "prompt_id": "9",
            "chosen": chat(ASK, BLUE),
            "rejected": chat(ASK, GREEN),
            "messages": chat(ASK, BLUE),
            "score_chosen": 9.0,
            "score_rejected": 2.0,
        },
        [],
    ),
    "minimind: DPO": ({"chosen": chat(ASK, BLUE), "rejected": chat(ASK, GREEN)}, []),
    "hh-rlhf": (
        {
            "chosen": f"\n\nHuman: {ASK[1]}\n\nAssistant: {BLUE[1]}",
            "rejected": f"\n\nHuman: {ASK[1]}\n\nAssistant: {GREEN[1]}",
        },
        [],
    ),
    "hh-rlhf of several turns": (
        {
            "chosen": f"\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: {ASK[1]}\n\nAssistant: {BLUE[1]}",
            "rejected": f"\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: {ASK[1]}\n\nAssistant: {GREEN[1]}",
        },
        [user("Hi"), answer("Hello!", False)],
    ),
}

CALL = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
REFUSED = {
    "TRL: prompt only": ("instruct", {"prompt": "The sky is"}, "--rename COLUMN=completion"),
    "TRL: implicit prompt in strings": (
        "preference",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "no turn in common",
    ),
    "TRL: stepwise": (
        "instruct",
        {"prompt": "Which?", "completions": ["a", "b"], "labels": [True, False]},
        "--rename completions=completion",
    ),
    "TRL: tools": ("instruct", {"messages": chat(ASK, BLUE), "tools": [{"name": "now"}]}, "--ignore tools"),
    "TRL: vision": ("instruct", {"images": ["a.png"], "messages": chat(ASK, BLUE)}, "--ignore images"),
    "LLaMA-Factory: ShareGPT with calls": (
        "instruct",
        {
            "conversations": shared(
                ("human", "Hi"), ("function_call", "{}"), ("observation", "x"), ("gpt", "a")
            )
        },
        "--ignore function_call",
    ),
    "LLaMA-Factory: images": (
        "instruct",
        {"instruction": "<image>What?", "input": "", "output": "A fox", "images": ["a.png"]},
        "--ignore images",
    ),
    "axolotl: template-free": (
        "instruct",
        {"segments": [{"label": False, "text": "Hi"}, {"label": True, "text": "Hello"}]},
        "no column",
    ),
    "axolotl: summarizetldr": ("instruct", {"article": "long", "summary": "short"}, "--rename"),
    "axolotl: oasst": (
        "instruct",
        {"INSTRUCTION": "Hi", "RESPONSE": "Hello"},
        "--rename INSTRUCTION=instruction RESPONSE=response",
    ),
    "axolotl: chatml.argilla": (
        "preference",
        {"system": "", "instruction": "Hi", "chosen_response": "a", "rejected_response": "b"},
        "--rename chosen_response=chosen rejected_response=rejected",
    ),
    "axolotl: pygmalion": (
        "instruct",
        {"conversations": [{"role": "human", "value": "Hi"}, {"role": "bot", "value": "Hello"}]},
        "--rename bot=user",
    ),
    "OpenAI: preference": (
        "preference",
        {
            "input": {"messages": chat(ASK)},
            "preferred_output": chat(BLUE),
            "non_preferred_output": chat(GREEN),
        },
        "--rename",
    ),
    "OpenAI: tool calls": (
        "instruct",
        {"messages": [*chat(ASK), {"role": "assistant", "tool_calls": [CALL], "content": None}, *chat(BLUE)]},
        "--ignore tool_calls",
    ),
    "OpenAI: vision": (
        "instruct",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, *chat(BLUE)]},
        "--ignore image_url",
    ),
    "OpenAI: reasoning": (
        "instruct",
        {"messages": [*chat(ASK), {"role": "assistant", "content": "a", "reasoning_content": "It is day."}]},
        "--ignore reasoning_content",
    ),
    "torchtune: preference": (
        "preference",
        {"chosen_conversations": chat(ASK, BLUE), "rejected_conversations": chat(ASK, GREEN)},
        "--rename chosen_conversations=chosen rejected_conversations=rejected",
    ),
    "self-instruct: seed tasks": (
        "instruct",
        {"id": "1", "instruction": "Add", "instances": [{"input": "1", "output": "2"}]},
        "no column",
    ),
    "FLAN": ("instruct", {"inputs": "Hi", "targets": "Hello"}, "--rename inputs=input"),
    "LIMA": ("instruct", {"conversations": ["Hi", "Hello"], "source": "x"}, "not a role and a content"),
    "Capybara": ("instruct", {"conversation": [{"input": "Hi", "output": "Hello"}]}, "--rename"),
    "SQuAD": (
        "instruct",
        {"context": "A fox", "question": "Who?", "answers": {"text": ["fox"], "answer_start": [2]}},
        "--rename answers=answer",
    ),
    "SHP": (
        "preference",
        {"history": "Hi", "human_ref_A": "a", "human_ref_B": "b", "labels": 1},
        "--rename",
    ),
    "OpenAssistant trees": ("instruct", {"message_id": "1", "text": "Hi", "role": "prompter"}, "--kind text"),
}


@pytest.fixture
def prepare(inline: None, command: Callable, tmp_path: Path) -> Callable:
    """Return a function that prepares copies of a row: kind, row -> (exit code, stdout, stderr)."""

    def call(kind: str, *rows: dict) -> tuple[int, str, str]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = ("--name", "mine", "--kind", kind, "--tokenizer", "bytes", "--val_fraction", 0)
        return command("--files", path, *flags)

    return call


def documents(data_dir: Path) -> list[list[tuple[int, bool]]]:
    """Return (token id, learned) of each document of the dataset."""
    folder = data_dir / "data" / "mine"
    dataset = TokenDataset(folder, "train", read_meta(folder))
    return [
        list(zip(*(part.tolist() for part in dataset.document(number)), strict=True))
        for number in range(dataset.documents)
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, prepare: Callable, tmp_path: Path) -> None:
    row = TEXTS[name]
    code, _, err = prepare("text", row)
    assert code == 0, err
    content = row.get("text") or row["content"]
    assert documents(tmp_path) == [tokens((content, True, True))]


@pytest.mark.parametrize("name", INSTRUCT)
def test_instructions(name: str, prepare: Callable, tmp_path: Path) -> None:
    row, parts = INSTRUCT[name]
    code, _, err = prepare("instruct", row)
    assert code == 0, err
    assert documents(tmp_path) == [tokens(*parts)]


@pytest.mark.parametrize("name", PREFERENCE)
def test_preferences(name: str, prepare: Callable, tmp_path: Path) -> None:
    row, before = PREFERENCE[name]
    code, _, err = prepare("preference", row)
    assert code == 0, err
    chosen, rejected = (tokens(*before, user(ASK[1]), answer(text)) for _, text in (BLUE, GREEN))
    assert documents(tmp_path) == [chosen, rejected]


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, prepare: Callable, tmp_path: Path) -> None:
    kind, row, advice = REFUSED[name]
    code, _, err = prepare(kind, row)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert advice in err and "rows.jsonl row 1" in err
    assert not (tmp_path / "data" / "mine").exists()


@pytest.mark.parametrize("mark", [{"label": False}, {"kto_tag": False}])
def test_bad_answers_are_left_out(mark: dict, prepare: Callable, tmp_path: Path) -> None:
    row = {"prompt": ASK[1], "completion": BLUE[1]}
    code, out, err = prepare("instruct", row | mark, row)
    assert code == 0 and "left out 1 rows: marked bad" in out, err
    assert documents(tmp_path) == [tokens(*SKY)]


# --- transformers as a witness ---------------------------------------------------------------------------------------

MARKED = """{% for message in messages %}{% if message['role'] == 'assistant' %}### Response:
{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}
{%- elif message['role'] == 'user' %}### Instruction:
{{ message['content'] + '\n\n' }}{% else %}### System:
{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"""


@pytest.mark.parametrize(
    "row, turns",
    [
        ({"messages": chat(*TALK_TURNS)}, TALK_TURNS),
        ({"conversations": shared(("system", "Be brief."), *SHARED_TURNS)}, TALK_TURNS),
        (
            {"system": "Be brief.", "history": [["Hi", "Hello!"]], "prompt": "Bye", "response": "See you."},
            TALK_TURNS,
        ),
        ({"prompt": ASK[1], "completion": BLUE[1]}, (ASK, BLUE)),
        ({"question": "naïve 你好?", "answer": "é 😀"}, (("user", "naïve 你好?"), ("assistant", "é 😀"))),
    ],
)
def test_the_mask_is_that_of_generation_marks(
    row: dict, turns: tuple, prepare: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    byte_level().save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        chat(*turns),
        chat_template=MARKED,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert prepare("instruct", row)[0] == 0
    (document,) = documents(tmp_path)
    assert [token for token, _ in document] == theirs["input_ids"]
    assert [int(learned) for _, learned in document] == theirs["assistant_masks"]
