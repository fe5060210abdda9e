"""Files of guests' tokenizers: read as AutoTokenizer reads them, saved as they were."""

import json
import pickle
from pathlib import Path

import pytest
import transformers
from guests import CHATML, write_guest

from runtime.errors import UserError
from tokenization.guest_files import read_files, read_template, with_chat_template
from tokenizer import Tokenizer, load_tokenizer

TEXTS = ["", "What is red?", " a", "two  blanks\n\n", "é 漢 😀", "<|im_end|> is text"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_guest_begins_texts_as_transformers_does(begins: bool, tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, None, begins))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[1:-1]:
        assert ours.encode_prompt(text) == theirs(text).input_ids
    assert ours.encode_prompt("") == ([ours.hf.token_to_id("<s>")] if begins else [ours.eos_id])
    assert ours.decode(ours.encode(TEXTS[-1])) == TEXTS[-1]


def test_a_flag_of_the_settings_may_add_the_begin_token(tmp_path: Path) -> None:
    write_guest(tmp_path, None, begins=False, tokenizer_class="LlamaTokenizer", add_bos_token=True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode_prompt("red") == theirs("red").input_ids


def test_a_guest_is_saved_as_it_was(tmp_path: Path) -> None:
    folder = write_guest(tmp_path / "guest", CHATML, as_file=True, model_max_length=77)
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    (tmp_path / "again").mkdir()
    load_tokenizer(folder).save(tmp_path / "again", with_template=False)
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_our_template_replaces_the_guests_alone(tmp_path: Path) -> None:
    folder = write_guest(tmp_path / "guest", CHATML, as_file=True, model_max_length=77)
    (tmp_path / "again").mkdir()
    changed = load_tokenizer(folder).with_our_template()
    changed.save(tmp_path / "again")
    assert not (tmp_path / "again" / "chat_template.jinja").exists()
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77 and config["chat_template"] == changed.chat_template
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs.chat_template == changed.chat_template


def test_a_template_is_found_where_transformers_finds_it(tmp_path: Path) -> None:
    assert read_template(read_files(write_guest(tmp_path / "none", None))) is None
    assert read_template(read_files(write_guest(tmp_path / "settings", "A"))) == "A"
    assert read_template(read_files(write_guest(tmp_path / "file", "A", as_file=True))) == "A"
    several = [{"name": "tool_use", "template": "B"}, {"name": "default", "template": "A"}]
    assert read_template(read_files(write_guest(tmp_path / "several", several))) == "A"
    old = write_guest(tmp_path / "old", None)
    (old / "chat_template.json").write_text('{"chat_template": "A"}')
    assert read_template(read_files(old)) == "A"


def test_the_class_is_written_where_the_folder_does_not_say_it() -> None:
    files = {"tokenizer.json": b"{}"}
    written = with_chat_template(files, {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}, None)
    assert json.loads(written["tokenizer_config.json"]) == {
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": "</s>",
    }
    assert written["tokenizer.json"] == b"{}"


def test_workers_get_a_guest_without_its_files(tmp_path: Path) -> None:
    ours = load_tokenizer(write_guest(tmp_path, CHATML))
    turns = [{"role": "user", "content": "<s>"}, {"role": "assistant", "content": "two"}]
    expected = ours.render(turns)
    sent: Tokenizer = pickle.loads(pickle.dumps(ours))
    assert sent.files == {} and sent.render(turns) == expected
    assert sent.encode("<s> a") == ours.encode("<s> a")


def test_a_template_that_is_no_text_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chat_template is no text"):
        load_tokenizer(write_guest(tmp_path, None, chat_template=5))
