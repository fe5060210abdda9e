"""GGUF files, read by transformers and by llama.cpp as we read them; Ollama's prompt template."""

import re

import pytest
import torch
from exports import write_spread_model
from jinja2 import Environment

import export
from config import ModelArgs
from generation.chat import ChatModel, Prompt
from generation.generate import GREEDY, generate
from model import Llama
from publishing.gguf_export import modelfile, read_gguf, to_llama_cpp_order, to_our_order, write_gguf
from runtime.errors import RunError, UserError
from tokenizer import byte_level, gpt2, train_bpe

TOKENIZERS = {
    "gpt2": gpt2,
    "bytes": byte_level,
    "bpe": lambda: train_bpe(["the old fox saw the small boat"], 300),
}
TEXT = "The fox's 123 boats,  it said:\n\n\t'naïve' 狐 🦊 don't\u00a0<|endoftext"


@pytest.fixture
def spread_model(tmp_path, tiny, spread):
    """Return a function that writes a model of random, spread weights; it returns (folder, model, tokenizer)."""

    def write(tokenizer, **settings):
        folder = tmp_path / "spread"
        return folder, write_spread_model(folder, tiny.replace(**settings), spread, tokenizer), tokenizer

    return write


@pytest.mark.parametrize("settings", [{}, {"no_kv_heads": 4, "tie_embeddings": False}, {"head_dim": 16}])
def test_transformers_reads_our_gguf_file(spread_model, tmp_path, settings):
    """Its reader of GGUF files knows nothing of ours, and llama.cpp's order of queries and keys."""
    from transformers import AutoModelForCausalLM

    _, model, tokenizer = spread_model(byte_level(), **settings)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, "float32")
    again = read_gguf(tmp_path / "model.gguf", model)
    weights = model.state_dict()
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokens = torch.tensor([tokenizer.encode("the red fox saw a small boat")])
    with torch.no_grad():
        logits = model(tokens)
        assert (theirs(tokens).logits - logits).abs().max() < 1e-5 * logits.abs().max()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "q8_0"])
def test_rounded_weights_are_as_near_as_they_can_be(spread_model, tmp_path, precision):
    _, model, tokenizer = spread_model(byte_level(), embeddings_dims=64)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, precision)
    again = Llama(model.args)
    again.load_state_dict(read_gguf(tmp_path / "model.gguf", again))
    assert "same at" in export.compare(model, again, precision, [1, 2, 3])
    with pytest.raises(RunError, match="not float32's rounding"):
        export.compare(model, again, "float32", [1, 2, 3])


def test_rows_of_each_head_are_interleaved_for_llama_cpp(tiny):
    """Only queries and keys; neighbours in the file are half a head apart in our weights."""
    num_rows = tiny.no_kv_heads * tiny.head_dim
    rows = torch.arange(num_rows)[:, None].expand(-1, 3).numpy()
    name = "model.layers.0.self_attn.k_proj.weight"

    file_rows = to_llama_cpp_order(name, rows, tiny)
    half = tiny.head_dim // 2
    assert file_rows[:4, 0].tolist() == [0, half, 1, half + 1]
    assert sorted(file_rows[: tiny.head_dim, 0]) == list(range(tiny.head_dim))  # heads stay apart
    assert (to_our_order(name, file_rows, tiny) == rows).all()
    assert to_llama_cpp_order(name.replace("k_proj", "v_proj"), rows, tiny) is rows


def test_gguf_refuses_what_llama_cpp_does_not_have(spread_model, tmp_path, tiny):
    with pytest.raises(
        UserError, match="llama.cpp does not support the published weights .no rotary positions"
    ):
        write_gguf(tmp_path / "model.gguf", Llama(tiny, legacy=True), byte_level(), "float32")
    tokenizer = byte_level()
    tokenizer.fast = None
    with pytest.raises(UserError, match="not a ranked byte-level BPE"):
        write_gguf(tmp_path / "model.gguf", Llama(tiny), tokenizer, "float32")
    assert not (tmp_path / "model.gguf").exists()


def test_ollamas_template_gives_our_prompts(tiny):
    """Ollama itself is not here: its template is rendered by Jinja, word by word."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
        {"role": "user", "content": "Why?"},
    ]
    text = modelfile("model-q8_0.gguf", True, tiny)
    template = re.search('TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    for go, jinja in (
        (r"\{\{ range \.Messages \}\}", "{% for m in messages %}"),
        (r'\{\{ if eq \.Role ("\w+") \}\}', r"{% if m.role == \1 %}"),
        (r'\{\{ else if eq \.Role ("\w+") \}\}', r"{% elif m.role == \1 %}"),
        (r"\{\{ \.Content \}\}", "{{ m.content }}"),
        (r"\{\{ end \}\}\{\{ end \}\}", "{% endif %}{% endfor %}"),
    ):
        template, count = re.subn(go, jinja, template)
        assert count
    rendered = Environment(keep_trailing_newline=True).from_string(template).render(messages=messages)
    tokenizer = byte_level()
    assert rendered == tokenizer.hf.decode(tokenizer.render(messages)[0], skip_special_tokens=False)
    assert text.startswith("FROM ./model-q8_0.gguf\n") and 'PARAMETER stop "<|endoftext|>"\n' in text
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile("model-q8_0.gguf", False, tiny)


@pytest.fixture
def llama_cpp(tmp_path):
    """Opens a GGUF file in llama.cpp."""
    library = pytest.importorskip("llama_cpp")
    opened = []

    def load(file):
        opened.append(
            library.Llama(
                str(file), n_ctx=0, verbose=False, type_k=library.GGML_TYPE_F32, type_v=library.GGML_TYPE_F32
            )
        )  # its cache is in half precision
        return opened[-1]

    yield load
    for model in opened:
        model.close()


@pytest.mark.parametrize("name, precision", [("gpt2", "float32"), ("bytes", "float32"), ("bpe", "float16")])
def test_llama_cpp_gives_our_ids_greedy_tokens_and_chat(name, precision, spread_model, tmp_path, llama_cpp):
    _, model, tokenizer = spread_model(TOKENIZERS[name]())
    write_gguf(tmp_path / "model.gguf", model, tokenizer, precision)
    model.load_state_dict(read_gguf(tmp_path / "model.gguf", model))  # rounded, as llama.cpp reads them
    theirs = llama_cpp(tmp_path / "model.gguf")
    ids = tokenizer.encode(TEXT)
    assert theirs.tokenize(TEXT.encode(), add_bos=False, special=False) == ids
    assert theirs.detokenize(ids) == TEXT.encode()

    ours = list(generate(model, ids[:9], 120, params=GREEDY))
    tokens = theirs.generate(ids[:9], temp=0.0, repeat_penalty=1.0)
    assert [token for token, _ in zip(tokens, ours, strict=False)] == ours and len(set(ours)) > 8

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Where is the fox? "},
    ]
    chat_model = ChatModel(model, tokenizer, "S")
    pieces = chat_model.stream_reply(
        Prompt(chat_model.encode(messages)), ModelArgs(temperature=0, max_length=24)
    )
    answer = "".join(piece.text for piece in pieces)
    reply = theirs.create_chat_completion(messages, temperature=0.0, repeat_penalty=1.0, max_tokens=24)
    assert reply["choices"][0]["message"]["content"] == answer.replace(
        "\ufffd", ""
    )  # it drops broken characters
    assert len(answer) > 10
