"""Special tokens of foreign tokenizers: the end is found where transformers finds it, and its letters stay text."""

import json
import pickle
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from runtime.errors import UserError
from tokenization.special_tokens import begin_ids, rename_tokens, token_at
from tokenizer import Tokenizer, byte_level, gpt2, load_tokenizer

NAMES = ["</s>", "<s>", "<end>"]


def folder_with(folder: Path, **files: object) -> Path:
    """Return a folder with a byte-level tokenizer that has the tokens of NAMES, and with JSON files."""
    hf = tokenizers.Tokenizer.from_str(byte_level().hf.to_str())
    hf.add_special_tokens(NAMES)
    hf.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
DECODER = {"0": {"content": "a", "special": False}}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": FAST | {"eos_token": "</s>"}},
        {"tokenizer_config": FAST, "special_tokens_map": {"eos_token": "</s>", "bos_token": "<s>"}},
        {"special_tokens_map": {"eos_token": {"content": "</s>", "lstrip": False, "rstrip": False}}},
        {
            "tokenizer_config": FAST | {"eos_token": "<end>"},
            "special_tokens_map": {"eos_token": "</s>"},
        },
        {
            "tokenizer_config": FAST | {"eos_token": "</s>", "added_tokens_decoder": DECODER},
            "special_tokens_map": {"eos_token": "<end>"},
        },
    ],
)
def test_the_end_is_found_where_transformers_finds_it(files: dict, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config={"model_type": "llama"}, **files)
    loaded = load_tokenizer(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded.eos_token == theirs.eos_token == "</s>"
    assert loaded.eos_id == 257
    assert loaded.settings.get("bos_token") == files.get("special_tokens_map", {}).get("bos_token")


def test_a_class_of_transformers_may_name_the_end(tmp_path: Path) -> None:
    hf = tokenizers.Tokenizer(
        models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4}, [], unk_token="<unk>")
    )
    hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hf.add_special_tokens(["<unk>", "<s>", "</s>"])
    hf.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).eos_token == "</s>"
    assert load_tokenizer(tmp_path).eos_token == "</s>"


def test_code_in_a_folder_is_neither_run_nor_asked_about(tmp_path: Path) -> None:
    code = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    folder = folder_with(tmp_path, tokenizer_config=code, config={"eos_token_id": 257})
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    assert load_tokenizer(folder).eos_token == "</s>"


def test_the_model_beside_it_may_name_the_end(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tokenizer_config=FAST, config={"eos_token_id": 258})
    assert load_tokenizer(folder).eos_token == "<s>"
    folder = folder_with(tmp_path, generation_config={"eos_token_id": [259, 257]})
    assert load_tokenizer(folder).eos_token == "<end>"


def test_a_folder_without_an_end_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tokenizer_config=FAST | {"eos_token": "<none>"})
    with pytest.raises(UserError, match='"eos_token" in tokenizer_config.json or special_tokens_map.json'):
        load_tokenizer(folder)


def unigram() -> tokenizers.Tokenizer:
    """Return a Unigram tokenizer that holds its special tokens as words, as converted SentencePiece models do."""
    words = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "▁abcs</>\n")]
    hf = tokenizers.Tokenizer(models.Unigram(words, unk_id=0))
    hf.pre_tokenizer = pre_tokenizers.Metaspace()
    hf.decoder = decoders.Metaspace()
    hf.add_special_tokens(["<unk>", "</s>"])
    return hf


def test_letters_of_the_end_stay_letters_in_a_unigram_model(tmp_path: Path) -> None:
    ours = Tokenizer(unigram(), {"eos_token": "</s>"}, None)
    for text in ("</s>", "a </s> b\n</s>"):
        ids = ours.encode(text)
        assert ours.eos_id not in ids and ours.hf.decode(ids) == text
        assert pickle.loads(pickle.dumps(ours)).encode(text) == ids
    assert ours.encode("ab c") == unigram().encode("ab c", add_special_tokens=False).ids

    ours.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"][1] == ["</s>", 0.0]
    assert load_tokenizer(tmp_path).hash == ours.hash


def test_renamed_special_tokens_are_found_by_their_new_names_alone() -> None:
    renamed = rename_tokens(unigram())
    ids = renamed.encode("<unk>").ids
    assert len(ids) == 4 and ids[2] == 0  # the blank and <, one unknown for u, n and k, and >

    content = renamed.hide("a</s>")
    text = renamed.rename(content + "</s>")
    ids = renamed.hf.encode(text, add_special_tokens=False).ids
    assert ids[-1] == 1 and ids.count(1) == 1 and len(ids) == 7


def test_a_text_cannot_name_a_renamed_token() -> None:
    renamed = rename_tokens(unigram())
    hostile = "a\U0010ffff</s> a<\U0010fffe/s>"
    text = renamed.rename(renamed.hide(hostile))
    assert 1 not in renamed.hf.encode(text, add_special_tokens=False).ids
    assert 1 not in renamed.encode(hostile).ids


def test_the_tokens_before_every_text() -> None:
    hf = tokenizers.Tokenizer.from_str(byte_level().hf.to_str())
    assert begin_ids(hf) == []
    hf.add_special_tokens(NAMES)
    tokens = [("<s>", hf.token_to_id("<s>")), ("</s>", hf.token_to_id("</s>"))]
    hf.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=tokens)
    assert begin_ids(hf) == [258]


def test_a_token_begins_at_a_character_or_not() -> None:
    encoding = gpt2().hf.encode("one two")
    assert [token_at(encoding, position) for position in (0, 1, 3, 4)] == [0, None, 1, None]


@pytest.mark.parametrize("added", [None, False])
def test_the_end_is_special_even_if_the_folder_forgot_it(added: bool | None) -> None:
    hf = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if added is not None:
        hf.add_tokens([AddedToken("</s>", special=False)])
    ours = Tokenizer(hf, {"eos_token": "</s>"}, None)
    assert ours.eos_id == 1 and ours.vocab_size == 3
    assert ours.encode("a </s> a") == [0, 2, 0]
