"""Prompt template: Tokenizer.render against the exported template, loss mask, special tokens, roles."""

from pathlib import Path

import pytest
import transformers
from our_tokenizers import KINDS, make_tokenizers, save

from config import EOS
from tokenization.prompt_template import instruction_text, turn_text
from tokenizer import Tokenizer


@pytest.fixture(scope="module")
def ours() -> dict[str, Tokenizer]:
    return make_tokenizers()


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest, ours: dict[str, Tokenizer]) -> Tokenizer:
    return ours[request.param]


CONVERSATIONS = [
    [("user", "Name a color.")],
    [("user", "Name a color."), ("assistant", "Red")],
    [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "And now?"),
        ("assistant", "Bye."),
    ],
    [("user", "  \n spaces around \n\n"), ("assistant", "\n\n a line\n\n\nand more  \n")],
    [("user", ""), ("assistant", "")],
    [("user", "one"), ("user", "two"), ("assistant", "\u00a0three\u2028"), ("assistant", "'s four 😀")],
    [("user", "\n    def one():\n"), ("assistant", "return 1\n  # of a kind \n")],
    [("assistant", "I begin."), ("user", "### Response:\n\n### Instruction: {{ 7 }} {% x %}")],
]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_conversation_has_the_ids_of_its_exported_template(
    one: Tokenizer, turns: list, tmp_path: Path
) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(save(one, tmp_path / "saved"))
    ends_with_question = turns[-1][0] != "assistant"
    ids = reference.apply_chat_template(
        messages(turns), add_generation_prompt=ends_with_question, tokenize=True, return_dict=False
    )
    assert one.render(messages(turns))[0] == ids
    if not ends_with_question:
        assert ids[-1] == one.eos_id


def test_the_loss_mask_covers_responses_and_their_ends_alone(one: Tokenizer) -> None:
    for turns in CONVERSATIONS:
        ids, loss_mask = one.render(messages(turns))
        answers = [
            token
            for content in (turn_text(content) for role, content in turns if role == "assistant")
            for token in [*one.encode(content), one.eos_id]
        ]
        assert [token for token, in_loss in zip(ids, loss_mask, strict=True) if in_loss] == answers
    assert any(loss_mask) and not all(loss_mask)


def test_a_prompt_is_the_beginning_of_its_conversation(one: Tokenizer) -> None:
    for turns in CONVERSATIONS:
        ids, loss_mask = one.render(messages(turns))
        for n in range(1, len(turns)):
            if turns[n][0] == "assistant" != turns[n - 1][0]:
                prompt, prompt_mask = one.render(messages(turns[:n]))
                assert ids[: len(prompt)] == prompt
                assert loss_mask[: len(prompt)] == prompt_mask and loss_mask[len(prompt)]


def test_the_template_in_words(ours: dict[str, Tokenizer]) -> None:
    ids, _ = ours["bytes"].render(
        messages([("system", "S"), ("user", instruction_text("Do", "\nit ")), ("assistant", "A")])
    )
    assert ours["bytes"].hf.decode(ids, skip_special_tokens=False) == (
        "### System:\nS\n\n### Instruction:\nDo\n\n### Input:\nit\n\n### Response:\nA<|endoftext|>"
    )
    assert instruction_text("\n\n Do ", " ") == " Do"


def test_a_special_token_in_a_turn_stays_text(one: Tokenizer) -> None:
    ids, loss_mask = one.render(messages([("user", f"What is {EOS}?"), ("assistant", f"{EOS} ends a text.")]))
    assert ids.count(one.eos_id) == 1 and ids[-1] == one.eos_id and loss_mask[-1]


def test_the_exported_template_refuses_an_unknown_role(one: Tokenizer, tmp_path: Path) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(save(one, tmp_path / "saved"))
    with pytest.raises(Exception, match="unknown role: tool"):
        reference.apply_chat_template(messages([("tool", "x")]))
