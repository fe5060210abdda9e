"""GGUF files: what is written is what is read, and llama.cpp, where it is installed, writes our tokens."""

from pathlib import Path

import gguf
import pytest
import torch

from config import ModelArgs, UserError
from generate import generate
from gguf_file import FILE_TYPES, TYPES, read_gguf, write_gguf
from model import Llama
from talk import Speaker
from template import CHAT_TEMPLATE
from tokenizer import Tokenizer, byte_level, gpt2, train_bpe

MODELS = {"gqa": {"no_kv_heads": 2}, "untied": {"tie_embeddings": False}, "wide heads": {"head_dim": 24, "eps": 1e-3},
          "mha": {"no_kv_heads": 4, "rope_theta": 500.0}}
TEXT = "The old fox's 12 kites   flew;\n\n they didn't fall: 🦊 café\n"


def random_model(vocab_size: int, spread: float = 10, **changes) -> Llama:
    args = ModelArgs(**{"embeddings_dims": 32, "no_of_decoder_layers": 2, "no_of_heads": 4, "hidden_dims": 48,
                        "block_size": 256, "vocab_size": vocab_size, "dropout": 0.0, "attn_dropout": 0.0, **changes})
    torch.manual_seed(3)
    model = Llama(args).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(spread if weight.dim() == 2 else 1)
    return model


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_what_is_read_back_is_what_was_written(tmp_path: Path, tokenizer: Tokenizer, changes: dict) -> None:
    model = random_model(320, **changes)
    for dtype, error in (("float32", 0.0), ("float16", 1e-3), ("bfloat16", 1e-2), ("q8_0", 1e-2)):
        write_gguf(tmp_path / "m.gguf", "m", model, tokenizer, dtype)
        weights = read_gguf(tmp_path / "m.gguf", model.args)
        assert weights.keys() == model.state_dict().keys()
        worst = max((weights[name] - weight).abs().max() for name, weight in model.state_dict().items())
        assert worst <= error and (dtype == "float32" or worst > 0)


def test_the_file_holds_tokenizer_template_and_shape(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_gguf(tmp_path / "m.gguf", "m", random_model(320), tokenizer, "q8_0")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"] == 256 and not fields["tokenizer.ggml.add_bos_token"]
    assert len(fields["tokenizer.ggml.tokens"]) == 320 and fields["tokenizer.ggml.tokens"][256] == "<|endoftext|>"
    assert fields["llama.context_length"] == 256 and fields["llama.attention.head_count_kv"] == 2


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    foreign = byte_level()
    foreign.fast = None
    with pytest.raises(UserError, match="tokenizer"):
        write_gguf(tmp_path / "m.gguf", "m", random_model(320), foreign, "float32")


TOKENIZERS = {"bytes": byte_level, "gpt2": gpt2, "trained": lambda: train_bpe(["the old fox flew a kite"] * 9, 300)}


@pytest.fixture(scope="module", params=TOKENIZERS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """(a model of ours as one that answers, llama.cpp's of the same) for a tokenizer."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs pip install '.[llama]'")
    tokenizer = TOKENIZERS[request.param]()
    model = random_model(-(-tokenizer.vocab_size // 64) * 64, spread=16)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(path, "m", model, tokenizer, "float32")
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # its cache is in half precision
    loaded = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False, **exact)
    yield Speaker(model, tokenizer, "S"), loaded
    loaded.close()


def test_llama_cpp_gives_our_ids_and_greedy_tokens(theirs: tuple) -> None:
    speaker, loaded = theirs
    ids = speaker.tokenizer.encode(TEXT)
    assert loaded.tokenize(TEXT.encode(), add_bos=True, special=False) == ids
    ours = list(generate(speaker.model, ids, 100, temperature=0.0))
    stream = loaded.generate(ids, temp=0.0, repeat_penalty=1.0)
    assert [next(stream) for _ in range(100)] == ours and len(set(ours)) > 2


def test_llama_cpp_answers_a_chat_as_we_do(theirs: tuple) -> None:
    speaker, loaded = theirs
    messages = [{"role": "user", "content": " Who?\n"}, {"role": "assistant", "content": "Me."},
                {"role": "user", "content": "Why?"}]
    args = ModelArgs(max_length=40, temperature=0.0, device="cpu")
    ids, _ = speaker.prompt(messages, 40)
    made: list[int] = []
    text = "".join(speaker.reply(ids, args, made))
    answer = loaded.create_chat_completion(messages, temperature=0.0, max_tokens=40)
    assert answer["usage"]["prompt_tokens"] == len(ids) and len(made) > 3
    said = answer["choices"][0]["message"]["content"]  # it may make one token more to end a character
    assert said.replace("\ufffd", "").strip().startswith(text.replace("\ufffd", "").strip()) and text.strip()


def test_every_type_has_a_file_type() -> None:
    assert FILE_TYPES.keys() == TYPES.keys()
