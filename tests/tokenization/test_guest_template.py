"""Chat templates of guests: ids and loss mask as transformers gives them, with generation marks and without."""

from pathlib import Path

import pytest
import transformers
from guests import ENDLESS, ENDS, REWRITES, TEMPLATES, with_marks, write_guest

from runtime.errors import UserError
from tokenization import guest_template
from tokenization.guest_template import RefusedByTemplate
from tokenizer import load_tokenizer

CONVERSATIONS = [
    [("user", "What is red?"), ("assistant", "A ripe cherry.")],
    [("user", "one"), ("assistant", "two"), ("user", "three\n\nfour"), ("assistant", "    five 😀\n  six")],
    [
        ("system", "Be brief."),
        ("user", "What?"),
        ("assistant", "Red."),
        ("user", "Why?"),
        ("assistant", "It is."),
    ],
    [("user", "What is red?")],
    [("user", "What is red?"), ("assistant", "Cherry"), ("user", "And blue?")],
]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_mask_are_those_of_transformers(name: str, turns: list, tmp_path: Path) -> None:
    if name == "gemma" and turns[0][0] == "system":
        pytest.skip("its template has no system turn")
    marked = with_marks(TEMPLATES[name])
    reference = transformers.AutoTokenizer.from_pretrained(write_guest(tmp_path / "marked", marked))
    theirs = reference.apply_chat_template(
        messages(turns),
        add_generation_prompt=turns[-1][0] == "user",
        return_dict=True,
        return_assistant_tokens_mask=True,
    )

    plain = load_tokenizer(write_guest(tmp_path / "plain", TEMPLATES[name], as_file=True))
    for ours in (plain, load_tokenizer(tmp_path / "marked")):
        ids, loss_mask = ours.render(messages(turns))
        assert ids == theirs["input_ids"]
        assert list(map(int, loss_mask)) == theirs["assistant_masks"]
        assert ours.stop_tokens == list(dict.fromkeys([ENDS[name], "</s>"]))
    assert any(loss_mask) == any(role == "assistant" for role, _ in turns)


@pytest.mark.parametrize("name", TEMPLATES)
def test_special_tokens_in_contents_stay_text(name: str, tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, TEMPLATES[name]))
    plain = messages([("user", "A"), ("assistant", "B")])
    hostile = messages([("user", f"A{ENDS[name]}<s>\U0010ffff</s>"), ("assistant", f"B{ENDS[name]} b")])
    special = set(map(ours.hf.token_to_id, ["<s>", "</s>", "<|im_start|>", "<|im_end|>", ENDS[name]]))

    def specials(ids: list[int]) -> list[int]:
        return [token for token in ids if token in special]

    ids, loss_mask = ours.render(hostile)
    assert specials(ids) == specials(ours.render(plain)[0])
    learned = [token for token, is_learned in zip(ids, loss_mask, strict=True) if is_learned]
    assert ours.decode(learned).rstrip("\n") == f"B{ENDS[name]} b"
    assert specials(learned) == [ours.hf.token_to_id(ENDS[name])]
    assert specials(ours.encode(f"x{ENDS[name]}")) == []


def test_a_response_may_be_context(tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, TEMPLATES["chatml"]))
    turns = messages([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
    turns[1]["train"] = False
    ids, loss_mask = ours.render(turns)
    learned = [token for token, is_learned in zip(ids, loss_mask, strict=True) if is_learned]
    assert ours.hf.decode(learned, skip_special_tokens=False) == "d<|im_end|>\n"


def test_a_token_at_the_end_of_every_conversation_ends_no_response(tmp_path: Path) -> None:
    ends = TEMPLATES["chatml"] + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    ours = load_tokenizer(write_guest(tmp_path, ends))
    turns = messages([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
    ids, loss_mask = ours.render(turns)
    learned = [token for token, is_learned in zip(ids, loss_mask, strict=True) if is_learned]
    assert ours.hf.decode(learned, skip_special_tokens=False) == "b<|im_end|>\nd<|im_end|>\n</s>"
    assert ours.stop_tokens == ["<|im_end|>", "</s>"]


def test_templates_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    rewrites = load_tokenizer(write_guest(tmp_path / "rewrites", REWRITES))
    with pytest.raises(UserError, match="turn 2 otherwise when .*: --template smolllama"):
        rewrites.check_template()
    endless = load_tokenizer(write_guest(tmp_path / "endless", ENDLESS))
    with pytest.raises(UserError, match="ends no response with a special token.*: --template smolllama"):
        endless.check_template()
    assert endless.stop_tokens == ["</s>"]

    broken = load_tokenizer(write_guest(tmp_path / "broken", "{% for x in %}"))
    with pytest.raises(UserError, match="the chat template refuses the conversation"):
        broken.check_template()
    for name, template in TEMPLATES.items():
        load_tokenizer(write_guest(tmp_path / name, template)).check_template()


@pytest.mark.parametrize(
    "template, role",
    [
        (
            TEMPLATES["chatml"].replace(
                "{% for message in messages %}", "{% for message in messages[-2:] %}"
            ),
            "system",
        ),
        (TEMPLATES["chatml"].replace("message['content'] +", "message['text'] | default('') +"), "user"),
        (TEMPLATES["chatml"].replace("message['content'] +", "message['content'] | upper +"), "user"),
    ],
)
def test_a_template_that_leaves_something_out_is_refused(template: str, role: str, tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, template))
    turns = [("system", "Be brief."), ("user", "a long one"), ("assistant", "two")]
    with pytest.raises(RefusedByTemplate, match=f"does not show the ({role}|system) turn as it is"):
        ours.render(messages(turns))


@pytest.mark.parametrize("fault", ["{{ 1 / 0 }}", "{{ range(100000000) | list }}", "{{ none.x.y }}"])
def test_any_error_of_a_template_is_a_line(fault: str, tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, TEMPLATES["chatml"] + fault))
    with pytest.raises(RefusedByTemplate, match="the chat template refuses the conversation"):
        ours.render(messages([("user", "one")]))


def test_what_a_template_says_of_a_conversation_is_passed_on(tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, TEMPLATES["gemma"]))
    with pytest.raises(RefusedByTemplate, match="System role not supported"):
        ours.render(messages([("system", "s"), ("user", "u")]))


def test_our_template_on_a_guest_begins_with_its_begin_token(tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path / "guest", None))
    assert not ours.has_own_template
    turns = messages([("user", "What is red?"), ("assistant", "A ripe cherry.")])
    ids, loss_mask = ours.render(turns)
    assert ids[0] == ours.hf.token_to_id("<s>") and ids[-1] == ours.eos_id
    learned = [token for token, is_learned in zip(ids, loss_mask, strict=True) if is_learned]
    assert learned == [*ours.encode("A ripe cherry."), ours.eos_id]

    ours.save(tmp_path)
    assert (
        transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(turns, return_dict=False)
        == ids
    )
    again = load_tokenizer(tmp_path)
    assert not again.has_own_template and again.render(turns) == (ids, loss_mask)

    chosen = load_tokenizer(write_guest(tmp_path / "own", TEMPLATES["chatml"]))
    assert chosen.stop_tokens == ["<|im_end|>", "</s>"]
    changed = chosen.with_our_template()
    assert changed.render(turns) == (ids, loss_mask) and changed.stop_tokens == ["</s>"]
    assert chosen.has_own_template and not changed.has_own_template


HOSTILE = {
    "without end": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "one long text": "{{ 'a' * 10**11 }}",
    "a text that doubles": "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s~n.s %}{% endfor %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch exploded').read() }}",
    "a file": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a text as wide as a disk": "{{ 'a' | center(10**11) }}",
    "no Jinja": "{% for",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_seconds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_template, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(guest_template, "MAX_BYTES", 1 << 28)
    ours = load_tokenizer(write_guest(tmp_path, HOSTILE[name]))
    assert ours.stop_ids == [ours.eos_id]
    with pytest.raises(
        UserError, match=r"the chat template refuses the conversation \(.+\): --template smolllama"
    ):
        ours.check_template()
    assert not Path("exploded").exists()
