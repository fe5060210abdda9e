"""Tokenizers of other programs in GGUF: recognised by their rules, the same ids in llama.cpp, or refused at once."""

import json
from pathlib import Path

import gguf
import pytest
import tokenizers
from gguf import TokenType
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from config import ModelArgs
from model import Llama
from publishing import gguf_vocabulary
from publishing.gguf_export import write_gguf
from publishing.gguf_vocabulary import read_vocabulary
from publishing.pre_tokenizer_tables import CONTRACTIONS, PUNCTUATION_AND_SPACE
from runtime.errors import UserError
from tokenization.guest_files import SETTINGS_FILE, TOKENIZER_FILE
from tokenizer import Tokenizer, byte_level, gpt2, load_tokenizer

CORPUS = [
    "the old fox saw 12345 small boats, didn't it?",
    "She\u2019LL go: the  end\n\n(of 2026)",
    "naïve 狐 ’s",
]
TEXTS = [
    "The fox's 123 boats,  it said:\n\n\t'naïve' 狐 🦊 don\u00a0t",
    "the old small fox saw the end of the boats in 2026",
    "x = 1234567;\r\n    return x  # DIDN'T",
    "a\n\n\nb   c    d ",
    "مرحبا ไทย é",
]


def regex_steps(digits: str) -> pre_tokenizers.PreTokenizer:
    """The steps of Llama 3 and of Qwen2, which differ in how many digits a word has."""
    pattern = CONTRACTIONS + digits + PUNCTUATION_AND_SPACE
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def words_of_bytes() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


KINDS = {
    "gpt-2": (None, words_of_bytes()),
    "smollm": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words_of_bytes()]),
    ),
    "llama-bpe": (None, regex_steps(r"\p{N}{1,3}")),
    "qwen2": (normalizers.NFC(), regex_steps(r"\p{N}")),
}


def saved(folder: Path, hf: tokenizers.Tokenizer, **settings: object) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    hf.save(str(folder / TOKENIZER_FILE))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", **settings}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    return load_tokenizer(folder)


def byte_bpe(
    normalizer: normalizers.Normalizer | None, pre_tokenizer: pre_tokenizers.PreTokenizer, ignore_merges: bool
) -> tokenizers.Tokenizer:
    """A small byte-level BPE that begins a text with <s>."""
    hf = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        hf.normalizer = normalizer
    hf.pre_tokenizer = pre_tokenizer
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator(CORPUS * 5, trainer)
    hf.add_tokens(["<think>"])
    hf.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return hf


def sentencepiece(metaspace: bool = False) -> tokenizers.Tokenizer:
    """A small SentencePiece vocabulary with bytes, as Llama 2 has it; `metaspace` is its newer form."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator([f" {text}" for text in CORPUS], trainers.BpeTrainer(vocab_size=120))
    content = json.loads(trained.to_str())["model"]

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *content["vocab"]]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in content["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    hf = tokenizers.Tokenizer(model)
    if metaspace:
        hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hf.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    hf.add_special_tokens(["<unk>", "<s>", "</s>"])
    return hf


def all_kinds(folder: Path) -> dict[str, Tokenizer]:
    tokenizers_of = {}
    for name, steps in KINDS.items():
        hf = byte_bpe(*steps, ignore_merges=name == "llama-bpe")
        tokenizers_of[name] = saved(folder / name, hf, bos_token="<s>")
    for name, metaspace in (("sentencepiece", False), ("metaspace", True)):
        hf = sentencepiece(metaspace)
        tokenizers_of[name] = saved(folder / name, hf, bos_token="<s>", unk_token="<unk>")
    return tokenizers_of


def test_pre_tokenizers_are_recognised_by_their_rules(tmp_path: Path) -> None:
    for name, tokenizer in all_kinds(tmp_path).items():
        vocabulary = read_vocabulary(tokenizer, 512)
        if name in KINDS:
            assert (vocabulary.kind, vocabulary.pre_tokenizer) == ("gpt2", name)
            assert vocabulary.adds_bos and vocabulary.special_ids == {"bos": 0, "eos": 1}
            assert vocabulary.types[tokenizer.hf.token_to_id("<think>")] == TokenType.USER_DEFINED
            assert vocabulary.types[:2] == [TokenType.CONTROL] * 2
        else:
            assert (vocabulary.kind, vocabulary.pre_tokenizer) == ("llama", "default")
            assert vocabulary.special_ids == {"bos": 1, "eos": 2, "unk": 0}
            assert vocabulary.adds_space and not vocabulary.adds_bos
            assert vocabulary.types[:4] == [
                TokenType.UNKNOWN,
                TokenType.CONTROL,
                TokenType.CONTROL,
                TokenType.BYTE,
            ]
            assert len(set(vocabulary.scores)) > 30 and max(vocabulary.scores) == 0
        assert vocabulary.tokens[-1] == "[PAD511]" and vocabulary.types[-1] == TokenType.UNUSED


def test_the_check_value_is_that_of_llama_cpps_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's own tokenizer has the value in llama.cpp's table; it counts before the rules do."""
    tokenizer = gpt2()
    tokenizer.fast = None
    monkeypatch.setattr(gguf_vocabulary, "PRE_TOKENIZERS", {})
    assert read_vocabulary(tokenizer, tokenizer.vocab_size).pre_tokenizer == "gpt-2"


def test_our_own_are_as_before() -> None:
    vocabulary = read_vocabulary(byte_level(), 320)
    assert (vocabulary.kind, vocabulary.pre_tokenizer, vocabulary.adds_bos) == ("gpt2", "gpt-2", False)
    assert vocabulary.special_ids == {"bos": 256, "eos": 256, "pad": 256}
    assert len(vocabulary.merges) == 1 and vocabulary.types[256] == TokenType.CONTROL


def unknown_rules() -> list[tuple[tokenizers.Tokenizer, str]]:
    """Tokenizers that llama.cpp does not have, with what a message says of each."""
    no_bytes = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "</s>": 1}, merges=[], byte_fallback=True))
    no_bytes.normalizer = normalizers.Replace(" ", "▁")
    changed = sentencepiece()
    changed.normalizer = normalizers.NFKC()
    unigram = tokenizers.Tokenizer(models.Unigram([("</s>", 0.0), ("a", -1.0)], unk_id=0))
    two = byte_bpe(*KINDS["gpt-2"], ignore_merges=False)
    two.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return [
        (
            byte_bpe(None, pre_tokenizers.Whitespace(), False),
            "splits text by Whitespace, which is none of gpt-2",
        ),
        (byte_bpe(*KINDS["llama-bpe"], ignore_merges=False), "splits text by Split, ByteLevel"),
        (byte_bpe(normalizers.Lowercase(), words_of_bytes(), False), "splits text by Lowercase, ByteLevel"),
        (no_bytes, "does not have a token for each byte"),
        (changed, "SentencePiece with NFKC"),
        (unigram, "a Unigram model"),
        (two, "begins a text with 2 special tokens"),
    ]


def test_others_are_refused_before_anything_is_written(tmp_path: Path, tiny: ModelArgs) -> None:
    for number, (hf, message) in enumerate(unknown_rules()):
        tokenizer = saved(tmp_path / str(number), hf)
        with pytest.raises(UserError, match=message) as refusal:
            write_gguf(tmp_path / "model.gguf", Llama(tiny.replace(vocab_size=512)), tokenizer, "q8_0", None)
        assert "--format safetensors" in str(refusal.value)
    assert not (tmp_path / "model.gguf").exists()


def test_llama_cpp_gives_our_ids(tmp_path: Path, tiny: ModelArgs) -> None:
    library = pytest.importorskip("llama_cpp")
    for name, tokenizer in all_kinds(tmp_path).items():
        path = tmp_path / f"{name}.gguf"
        write_gguf(path, Llama(tiny.replace(vocab_size=512)), tokenizer, "float32", None)
        theirs = library.Llama(str(path), vocab_only=True, verbose=False)
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ids, (name, text)
            begun = theirs.tokenize(text.encode(), add_bos=True, special=False)
            assert begun == tokenizer.hf.encode(text).ids, (name, text)
        assert theirs.token_eos() == tokenizer.eos_id
        theirs.close()


def test_the_file_holds_the_vocabulary(tmp_path: Path, tiny: ModelArgs) -> None:
    tokenizer = all_kinds(tmp_path)["sentencepiece"]
    write_gguf(tmp_path / "model.gguf", Llama(tiny.replace(vocab_size=512)), tokenizer, "float32", None)
    fields = {
        name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()
    }
    vocabulary = read_vocabulary(tokenizer, 512)
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"] is True
    assert fields["tokenizer.ggml.tokens"] == vocabulary.tokens
    assert fields["tokenizer.ggml.scores"] == vocabulary.scores
    assert fields["tokenizer.ggml.token_type"] == vocabulary.types
    assert fields["tokenizer.ggml.add_bos_token"] is False and fields["tokenizer.ggml.unknown_token_id"] == 0
