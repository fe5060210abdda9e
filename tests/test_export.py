"""Exports: read by transformers as we read them, folders that are not replaced, and the way to the hub and back."""

import json
import shutil

import gguf
import pytest
import torch
from exports import call, greedy_text, train_two_runs

import download_model_weight
import export
from checkpoint import find_model, load_model, write_model
from model import Llama
from modelfiles.llama_config import read_config
from runtime.errors import RunError, UserError
from tokenizer import byte_level


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of two short runs: pretraining, and fine-tuning from it."""
    return train_two_runs(tmp_path_factory.mktemp("runs"))


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
        logits = model(tokens)
        assert (theirs.float()(tokens).logits - logits).abs().max() < 1e-5 * logits.abs().max()
    exact = torch.equal(model(tokens), load_model(runs / "S-asked")[0](tokens))
    assert exact == (dtype == "float32")
    assert read_config(target)["smolllama"] == {"stage": "S"}


@pytest.mark.parametrize("name, has_template", [("P-toy", False), ("S-asked", True)])
def test_gguf_has_the_template_and_the_sampling_of_its_run(
    runs, tmp_path, name, has_template, monkeypatch, capsys
):
    """A base model goes without a template, in the file and for Ollama."""
    target = tmp_path / "made"
    words = ("--model", runs / name, "--to", target, "--format", "gguf", "--dtype", "q5_0")
    lines = call(export, monkeypatch, capsys, *words)
    assert lines[-1] == str(target) and "weights as q5_0 rounds them" in lines[0]
    fields = gguf.GGUFReader(target / "model-q5_0.gguf").fields
    assert ("tokenizer.chat_template" in fields) == has_template
    assert fields["general.name"].contents() == "made"
    modelfile = (target / "Modelfile").read_text()
    assert "PARAMETER num_predict 5\n" in modelfile and 'PARAMETER stop "<|endoftext|>"' in modelfile
    assert ("{{ .Prompt }}" in modelfile) != has_template


def test_a_tokenizer_that_llama_cpp_does_not_have_stops_before_anything_is_written(
    runs, tmp_path, monkeypatch, capsys
):
    source = shutil.copytree(find_model(runs / "S-asked"), tmp_path / "source")
    content = json.loads((source / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Punctuation", "behavior": "Isolated"}
    (source / "tokenizer.json").write_text(json.dumps(content))
    target = tmp_path / "target"
    with pytest.raises(UserError, match="does not have this tokenizer .it splits text by Punctuation"):
        call(export, monkeypatch, capsys, "--model", source, "--to", target, "--format", "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


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
    for model, target, reason in (
        (runs / "S-asked", step, "it holds SHA256SUMS"),
        (copy, copy, "it is the model itself"),
        (step, tmp_path / "file", "it is not a folder"),
        (step, tmp_path, "it holds copy"),
    ):
        with pytest.raises(UserError, match=f"not replaced, since {reason}"):
            call(export, monkeypatch, capsys, "--model", model, "--to", target)
    assert (step / "train_state").is_dir() and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--to", "x", "--dtype", "q8_0"], "--dtype q8_0 needs --format gguf"),
        (["--to", "x", "--dtype", "q4_0"], "--dtype q4_0 needs --format gguf"),
        ([], "--to DIR is required"),
        (["--to", "x", "--dtype", "int4"], "invalid choice: 'int4'"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["export.py", "--model", "nowhere", *words])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


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


def test_pushed_and_downloaded_models_write_the_same_text(runs, tmp_path, hub, monkeypatch, capsys):
    hub.fault("/api/repos/create", status=503)
    hub.fault("/commit/main", status=503)
    words = ["--to", tmp_path / "made", "--push_to_hub", "someone/small-fox", "--license", "mit"]
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
    call(
        export,
        monkeypatch,
        capsys,
        "--model",
        step,
        "--card",
        "--push_to_hub",
        "someone/fox",
        "--license",
        "mit",
    )
    assert list(hub.models["someone/fox"]) == ["README.md"]


@pytest.mark.parametrize(
    "token, repo, message",
    [
        ("", "someone/fox", "log in with `hf auth login`"),
        ("hf_of_a_test", "a/b/c", "is not the name of a repository"),
    ],
)
def test_a_hub_that_does_not_take_it_is_one_line(
    token, repo, message, runs, tmp_path, hub, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message):
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
            "--license",
            "mit",
        )
    assert not hub.models and not (tmp_path / "made").exists()
