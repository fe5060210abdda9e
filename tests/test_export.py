"""Exports: read by transformers and by llama.cpp as we read them; folders that are not replaced; the model card."""

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub import Hub
from jinja2 import Environment
from toy import QUIET, TINY, flags, toy_dataset
from transformers.utils.import_utils import is_serve_available

import download_model_weight
import export
import trainer
from checkpoint import find_model, load_model, read_config, write_model
from config import ModelArgs
from generation.chat import ChatModel, load_chat_model
from generation.generate import GREEDY, generate
from model import Llama
from publishing import model_card
from publishing.gguf_export import modelfile, read_gguf, write_gguf
from runtime import hub as runtime_hub
from runtime.errors import RunError, UserError
from tokenizer import byte_level, gpt2, train_bpe

SOURCE = {"repo": "someone/stories", "revision": "0123456789abcdef"}
QUICK = {"max_length": 5, "prompt": "the red fox"}


def call(module, monkeypatch, capsys, *words: object) -> list[str]:
    """The lines that a script prints on stdout."""
    monkeypatch.setattr("sys.argv", ["script", *map(str, words)])
    capsys.readouterr()
    module.main()
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two short runs: pretraining, and fine-tuning from it."""
    folder = tmp_path_factory.mktemp("runs")
    for name, kind in (("toy", "text"), ("asked", "instruct")):
        meta = toy_dataset(folder / "data", name, kind=kind) / "meta.json"
        (meta.parent / "SHA256SUMS").unlink(missing_ok=True)  # it knows the file as it was
        meta.write_text(
            json.dumps(
                {
                    **json.loads(meta.read_text()),
                    "source": SOURCE
                    if kind == "text"
                    else {
                        "files": [{"path": "/somewhere/private/answers.jsonl", "bytes": 123, "modified": 0}]
                    },
                }
            )
        )
    settings = {
        **TINY,
        "data_dir": folder / "data",
        "save_checkpoint_dir": folder / "runs",
        "total_iters": 4,
        "block_size": 96,
        "batch_size": 4,
        "total_batch_size": 384,
    }
    base = ["--init_from", folder / "runs" / "P-toy"]
    with pytest.MonkeyPatch.context() as patch:
        for stage, dataset, extra in (("P", "toy", []), ("S", "asked", base)):
            words = flags({**settings, "train": stage, "dataset": dataset})
            patch.setattr("sys.argv", ["trainer.py", *words, *map(str, extra)])
            trainer.main()
    return folder / "runs"


@pytest.fixture
def spread_model(tmp_path, tiny, spread):
    """Writes a model of random, spread weights with a tokenizer into a folder; returns folder, model, tokenizer."""

    def write(tokenizer, **settings):
        torch.manual_seed(0)
        model = spread(
            Llama(tiny.replace(vocab_size=-(-tokenizer.vocab_size // 64) * 64, block_size=256, **settings))
        )
        folder = tmp_path / "spread"
        folder.mkdir()
        write_model(folder, model.eval(), tokenizer, {"stage": "S"})
        return folder, model, tokenizer

    return write


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_transformers_reads_an_export_in_its_dtype(runs, tmp_path, dtype, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM

    target = tmp_path / "deep" / "made"
    lines = call(export, monkeypatch, capsys, "--model", runs / "S-asked", "--to", target, "--dtype", dtype)
    assert lines[-1] == str(target) and dtype in lines[0] and "same at" in lines[0]
    assert sorted(path.name for path in target.parent.iterdir()) == ["made"]
    theirs = AutoModelForCausalLM.from_pretrained(target)
    assert theirs.dtype == getattr(torch, dtype)
    model, tokenizer = load_model(target)
    tokens = torch.tensor([tokenizer.encode("the red fox saw a small boat")])
    with torch.no_grad():
        torch.testing.assert_close(theirs.float()(tokens).logits, model(tokens), atol=2e-5, rtol=0)
    exact = torch.equal(model(tokens), load_model(runs / "S-asked")[0](tokens))
    assert exact == (dtype == "float32")
    assert read_config(target)["smolllama"] == {"stage": "S"}


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
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=2e-5, rtol=0)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "q8_0"])
def test_rounded_weights_are_as_near_as_they_can_be(spread_model, tmp_path, precision):
    _, model, tokenizer = spread_model(byte_level(), embeddings_dims=64)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, precision)
    again = Llama(model.args)
    again.load_state_dict(read_gguf(tmp_path / "model.gguf", again))
    assert "same at" in export.compare(model, again, precision, [1, 2, 3])
    with pytest.raises(RunError, match="not float32's rounding"):
        export.compare(model, again, "float32", [1, 2, 3])


def test_what_is_not_the_model_gets_no_name(runs, tmp_path, monkeypatch, capsys):
    """A weight that comes back changed stops the export, and an earlier one stays."""
    target = tmp_path / "made"
    call(export, monkeypatch, capsys, "--model", runs / "P-toy", "--to", target)
    before = (target / "config.json").stat().st_ino
    real = export.read_weights

    def damaged(folder, model):
        weights = real(folder, model)
        weights["model.norm.weight"][3] += 0.01
        return weights

    monkeypatch.setattr(export, "read_weights", damaged)
    with pytest.raises(RunError, match="model.norm.weight, read again, is off by 0.01"):
        call(export, monkeypatch, capsys, "--model", runs / "P-toy", "--to", target)
    assert (target / "config.json").stat().st_ino == before and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(export, "read_weights", real)
    call(export, monkeypatch, capsys, "--model", runs / "P-toy", "--to", target)  # its own folder is replaced
    assert (target / "config.json").stat().st_ino != before


def test_folders_of_others_are_not_replaced(runs, tmp_path, monkeypatch, capsys):
    step = runs / "P-toy" / (runs / "P-toy" / "latest").read_text()
    (tmp_path / "file").write_text("mine")
    copy = shutil.copytree(
        step, tmp_path / "copy", ignore=shutil.ignore_patterns("train_state", "SHA256SUMS")
    )
    for model, target, why in (
        (runs / "S-asked", step, "SHA256SUMS"),
        (copy, copy, "the model itself"),
        (step, tmp_path / "file", "no folder"),
        (step, tmp_path, "copy"),
    ):
        with pytest.raises(UserError, match=f"not replaced, since it holds {why}"):
            call(export, monkeypatch, capsys, "--model", model, "--to", target)
    assert (step / "train_state").is_dir() and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--to", "x", "--dtype", "q8_0"], "--dtype q8_0 is of --format gguf"),
        ([], "give --to DIR"),
        (["--to", "x", "--dtype", "int4"], "invalid choice: 'int4'"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["export.py", "--model", "nowhere", *words])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_legacy_weights_and_tiny_contexts_are_exported_too(tmp_path, tiny, monkeypatch, capsys):
    """A context that the template alone fills gives no sample."""
    model = Llama(tiny.replace(vocab_size=320), legacy=True).eval()
    (tmp_path / "legacy").mkdir()
    write_model(tmp_path / "legacy", model, byte_level(), {"stage": "D", "legacy": True})
    call(export, monkeypatch, capsys, "--model", tmp_path / "legacy", "--to", tmp_path / "made")
    assert read_config(tmp_path / "made")["smolllama"] == {"stage": "D", "legacy": True}
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(load_model(tmp_path / "made")[0](tokens), model(tokens))
    text = (tmp_path / "made" / "README.md").read_text()
    assert "no other library has this architecture" in text and "## Samples" not in text


def test_gguf_refuses_what_llama_cpp_does_not_have(spread_model, tmp_path, tiny):
    with pytest.raises(UserError, match="no rotary positions"):
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


def test_card_tells_the_run(runs, tmp_path, monkeypatch, capsys):
    lines = call(
        export, monkeypatch, capsys, "--model", runs / "S-asked", "--to", tmp_path / "cards", "--card"
    )
    assert lines == [str(tmp_path / "cards")]
    assert [path.name for path in (tmp_path / "cards").iterdir()] == ["README.md"]
    text = (tmp_path / "cards" / "README.md").read_text()
    for stage in model_card.history(runs / "S-asked" / (runs / "S-asked" / "latest").read_text()):
        assert (
            f"| {stage.name} | {stage.args.dataset} | 4 | 1,536 | {stage.last('train')['loss']:.4f} | "
            f"{stage.last('val')['loss']:.4f} |" in text
        )
        assert stage.hours > 0 and "1 x cpu" in text
    assert '"datasets": ["someone/stories"]' in text or 'datasets: ["someone/stories"]' in text
    assert (
        "at revision 0123456789abcdef" in text
        and "answers.jsonl (123 bytes)" in text
        and "private" not in text
    )
    assert "by pretraining then fine-tuning" in text and "| max_lr | 0.01 | 0.01 |" in text
    assert text.count("> **the fox**") == 3
    first, second = (shutil.copytree(runs / "S-asked", tmp_path / name) for name in "ab")
    for run, other in (first, "b"), (second, "a"):  # each, renamed, says that it began as the other
        step = (run / "latest").read_text()
        state = run / step / "train_state" / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "init_from": f"../{other}/{step}"}))
    assert len(model_card.history(first / step)) == 2


def test_card_of_a_model_without_a_run_says_no_more_than_is_known(
    spread_model, tmp_path, monkeypatch, capsys
):
    folder, model, _ = spread_model(byte_level())
    call(export, monkeypatch, capsys, "--model", folder, "--card", *flags(QUICK))
    text = (folder / "README.md").read_text()
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in text
    assert "## Training" not in text and "> **the red fox**" in text


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A hub that this process writes to and reads from, with a token, without waiting."""
    constants = huggingface_hub.constants
    with Hub({}) as hub:
        runtime_hub.hub_filesystem.cache_clear()
        huggingface_hub.HfFileSystem.clear_instance_cache()
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield hub
    huggingface_hub.HfFileSystem.clear_instance_cache()
    runtime_hub.hub_filesystem.cache_clear()


def greedy_text(folder) -> str:
    """What the model in a folder answers."""
    speaker = load_chat_model(find_model(folder))
    ids = speaker.encode([{"role": "user", "content": "Say fox"}])
    pieces = speaker.stream_reply(ids, ModelArgs(temperature=0, max_length=30))
    return "".join(piece.text for piece in pieces)


def test_pushed_and_downloaded_models_write_the_same_text(runs, tmp_path, hub, monkeypatch, capsys):
    hub.fault("/api/repos/create", status=503)
    hub.fault("/commit/main", status=503)
    words = ["--to", tmp_path / "made", "--push_to_hub", "someone/small-fox"]
    lines = call(export, monkeypatch, capsys, "--model", runs / "S-asked", *words)
    assert (
        lines[-2:] == [f"uploaded to {hub.url}/someone/small-fox", str(tmp_path / "made")] and not hub.faults
    )
    assert hub.models["someone/small-fox"].keys() == {path.name for path in (tmp_path / "made").iterdir()}
    assert b"# small-fox" in hub.models["someone/small-fox"]["README.md"]

    hub.fault("/model.safetensors", cut=70_000)
    lines = call(
        download_model_weight,
        monkeypatch,
        capsys,
        "--repo_id",
        "someone/small-fox",
        "--save_checkpoint_dir",
        tmp_path / "there",
    )
    assert lines[-1] == str(tmp_path / "there" / "someone--small-fox") and not hub.faults
    text = greedy_text(runs / "S-asked")
    assert greedy_text(lines[-1]) == text and len(text) > 10


def test_card_alone_goes_to_the_hub_alone(runs, hub, monkeypatch, capsys):
    step = runs / "P-toy" / (runs / "P-toy" / "latest").read_text()
    call(export, monkeypatch, capsys, "--model", step, "--card", "--push_to_hub", "someone/fox")
    assert list(hub.models["someone/fox"]) == ["README.md"]


@pytest.mark.parametrize(
    "token, repo, said",
    [
        ("", "someone/fox", "log in with `hf auth login`"),
        ("hf_of_a_test", "a/b/c", "is not the name of a repository"),
    ],
)
def test_a_hub_that_does_not_take_it_is_one_line(token, repo, said, runs, tmp_path, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=said):
        call(
            export,
            monkeypatch,
            capsys,
            "--model",
            runs / "P-toy",
            "--to",
            tmp_path / "made",
            "--push_to_hub",
            repo,
        )
    assert not hub.models


@pytest.mark.slow
def test_transformers_serve_answers_as_we_do(runs, tmp_path, monkeypatch, capsys):
    """Its OpenAI-compatible server on an export; needs pip install "transformers[serving]"."""
    if not is_serve_available():
        pytest.skip("needs transformers[serving]")
    call(export, monkeypatch, capsys, "--model", runs / "S-asked", "--to", tmp_path / "made")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            Path(sys.executable).with_name("transformers"),
            "serve",
            tmp_path / "made",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--device",
            "cpu",
        ],
        env={**QUIET, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("Uvicorn running" in line for line in server.stderr)
        asked = {
            "model": str(tmp_path / "made"),
            "messages": [{"role": "user", "content": "Say fox"}],
            "temperature": 0,
            "max_tokens": 30,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = json.load(answer)["choices"][0]["message"]["content"]
    finally:
        server.kill()
    assert text.strip() == greedy_text(runs / "S-asked").strip() and len(text) > 10


# --- llama.cpp, where llama-cpp-python is installed ------------------------------------------------------------------


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


TOKENIZERS = {
    "gpt2": gpt2,
    "bytes": byte_level,
    "bpe": lambda: train_bpe(["the old fox saw the small boat"], 300),
}
TEXT = "The fox's 123 boats,  it said:\n\n\t'naïve' 狐 🦊 don't\u00a0<|endoftext"


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
    speaker = ChatModel(model, tokenizer, "S")
    pieces = speaker.stream_reply(speaker.encode(messages), ModelArgs(temperature=0, max_length=24))
    answer = "".join(piece.text for piece in pieces)
    reply = theirs.create_chat_completion(messages, temperature=0.0, repeat_penalty=1.0, max_tokens=24)
    assert reply["choices"][0]["message"]["content"] == answer.replace(
        "\ufffd", ""
    )  # it leaves out broken characters
    assert len(answer) > 10
