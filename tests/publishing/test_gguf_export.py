"""GGUF files, read by transformers and by llama.cpp as we read them; Ollama's prompt template."""

import math
import re

import gguf
import pytest
import torch
from exports import write_spread_model
from jinja2 import Environment

import export
from config import ModelArgs
from generation.chat import ChatModel, Prompt
from generation.generate import GREEDY, generate
from model import Llama
from publishing.gguf_export import (
    Description,
    modelfile,
    ollama_template,
    read_gguf,
    to_llama_cpp_order,
    to_our_order,
    write_gguf,
)
from runtime.errors import RunError, UserError
from tokenization.prompt_template import CHAT_TEMPLATE
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
    write_gguf(tmp_path / "model.gguf", model, tokenizer, "float32", None)
    again = read_gguf(tmp_path / "model.gguf", model)
    weights = model.state_dict()
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokens = torch.tensor([tokenizer.encode("the red fox saw a small boat")])
    with torch.no_grad():
        logits = model(tokens)
        assert (theirs(tokens).logits - logits).abs().max() < 1e-5 * logits.abs().max()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "q8_0", "q5_0", "q4_0"])
def test_rounded_weights_are_as_near_as_they_can_be(spread_model, tmp_path, precision):
    _, model, tokenizer = spread_model(byte_level(), embeddings_dims=64)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, precision, CHAT_TEMPLATE)
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
        write_gguf(tmp_path / "model.gguf", Llama(tiny, legacy=True), byte_level(), "float32", None)
    assert not (tmp_path / "model.gguf").exists()


def fields_of(path):
    """The metadata of a GGUF file."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_the_file_says_what_it_is(tiny, tmp_path):
    model = Llama(tiny.replace(vocab_size=320))
    description = Description("me/story", "apache-2.0", "other/base")
    write_gguf(tmp_path / "model.gguf", model, byte_level(), "q4_0", CHAT_TEMPLATE, description)
    fields = fields_of(tmp_path / "model.gguf")
    assert fields["general.name"] == "me/story" and fields["general.license"] == "apache-2.0"
    assert fields["general.base_model.0.name"] == "other/base"
    assert fields["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE

    write_gguf(tmp_path / "base.gguf", model, byte_level(), "q4_0", None)
    assert "tokenizer.chat_template" not in fields_of(tmp_path / "base.gguf")


def test_scaled_positions_are_in_the_file(tiny, tmp_path):
    """llama.cpp reads llama3's scaling as a factor of each frequency, by its converter's formula; linear by name."""
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    args = tiny.replace(vocab_size=320, head_dim=12, rope_theta=100.0, rope_scaling=llama3)
    write_gguf(tmp_path / "model.gguf", Llama(args), byte_level(), "float32", None)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    expected = []
    for pair in range(6):
        wavelength = 2 * math.pi * 100.0 ** (pair / 6)
        smooth = (32 / wavelength - 1) / 3
        factor = 1 if wavelength < 8 else 8 if wavelength > 32 else 1 / ((1 - smooth) / 8 + smooth)
        expected.append(factor)
    assert tensors["rope_freqs.weight"].tolist() == pytest.approx(expected, rel=1e-6)
    assert expected[0] == 1 < expected[1] < 8 == expected[-1]

    linear = args.replace(rope_scaling={"rope_type": "linear", "factor": 4.0})
    write_gguf(tmp_path / "linear.gguf", Llama(linear), byte_level(), "float32", None)
    fields = fields_of(tmp_path / "linear.gguf")
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 4.0)
    assert "rope_freqs.weight" not in {
        tensor.name for tensor in gguf.GGUFReader(tmp_path / "linear.gguf").tensors
    }


@pytest.mark.parametrize("kind", ["llama3", "linear"])
def test_llama_cpp_writes_as_we_do_with_scaled_positions(kind, spread_model, tmp_path, llama_cpp):
    scaling = {"rope_type": kind, "factor": 4.0}
    if kind == "llama3":
        scaling |= {
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    _, model, tokenizer = spread_model(byte_level(), head_dim=12, rope_theta=500.0, rope_scaling=scaling)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, "float32", None)
    prompt = tokenizer.encode(TEXT)
    ours = list(generate(model, prompt, 120, params=GREEDY))
    tokens = llama_cpp(tmp_path / "model.gguf").generate(prompt, temp=0.0, repeat_penalty=1.0)
    assert [token for token, _ in zip(tokens, ours, strict=False)] == ours
    unscaled = Llama(model.args.replace(rope_scaling=None)).eval()
    unscaled.load_state_dict(model.state_dict())
    assert list(generate(unscaled, prompt, 120, params=GREEDY)) != ours


def test_ollamas_template_gives_our_prompts(tiny):
    """Ollama itself is not here: its template is rendered by Jinja, word by word."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
        {"role": "user", "content": "Why?"},
    ]
    text = modelfile("model-q8_0.gguf", ollama_template(True), tiny)
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
    without = modelfile("model-q8_0.gguf", None, tiny, ["</s>", "<|im_end|>"])
    assert 'TEMPLATE "' not in without and "# no TEMPLATE: Ollama takes" in without
    assert 'PARAMETER stop "</s>"\nPARAMETER stop "<|im_end|>"\n' in without
    assert "num_predict" not in without
    assert "PARAMETER num_predict 7\n" in modelfile("m.gguf", None, tiny, num_predict=7)
    assert "### Response:\n{{ .Content }}</s>" in ollama_template(True, "</s>")
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile("model-q8_0.gguf", ollama_template(False), tiny)


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
    write_gguf(tmp_path / "model.gguf", model, tokenizer, precision, CHAT_TEMPLATE)
    model.load_state_dict(read_gguf(tmp_path / "model.gguf", model))  # rounded, as llama.cpp reads them
    theirs = llama_cpp(tmp_path / "model.gguf")
    ids = tokenizer.encode(TEXT)
    assert theirs.tokenize(TEXT.encode(), add_bos=False, special=False) == ids
    assert theirs.detokenize(ids) == TEXT.encode()

    ours = list(generate(model, ids[:9], 120, params=GREEDY))
    tokens = theirs.generate(ids[:9], temp=0.0, repeat_penalty=1.0)
    assert [token for token, _ in zip(tokens, ours, strict=False)] == ours and len(set(ours)) > 8

    if name == "bytes":
        return  # llama-cpp-python does not count the tokens of a character that never ends: random bytes

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
