"""Exports as a user makes them: read back, refused, described, published, fetched again."""

import json
import re
from pathlib import Path

import pytest
import torch
from hub import Hub
from jinja2 import Environment
from published import published_file
from safetensors import safe_open
from test_download_model_weight import get, hub  # noqa: F401 - fixtures
from toy import TINY, flags, toy_dataset

import config
import export
import trainer
from checkpoint import load_model
from config import ModelArgs
from export import modelfile
from generate import generate
from legacy import convert
from model import Llama
from talk import Speaker, load_speaker
from tokenizer import Tokenizer

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."}, {"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest step of a short run."""
    folder = tmp_path_factory.mktemp("run")
    toy_dataset(folder / "data")
    words = flags({**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", "block_size": 160})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["trainer.py", *words])
        trainer.main()
    return folder / "runs" / "P-toy" / "step_000006"


@pytest.fixture
def run_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs the script; returns what it printed, or the one line of an error."""
    def run(*words: object) -> list[str] | str:
        monkeypatch.setattr("sys.argv", ["export.py", *map(str, words)])
        try:
            config.run(export.main)
        except SystemExit as stopped:
            assert stopped.code == 2
            return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")].pop()
        return capsys.readouterr().out.splitlines()
    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_safetensors_of_each_type(run_export, step: Path, tmp_path: Path, dtype: str) -> None:
    said = run_export("--model", step, "--to", tmp_path / "out", "--dtype", dtype)
    assert said[-1] == str(tmp_path / "out") and re.search(r"transformers: after 128 .* same 1[0-9]+ times", said[0])
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.norm.weight").dtype == getattr(torch, dtype)
    assert not (tmp_path / "out" / "train_state").exists() and not list(tmp_path.glob(".*"))
    model, _ = load_model(tmp_path / "out")
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        error = (model(tokens) - load_model(step)[0](tokens)).abs().max()
    assert error == 0 if dtype == "float32" else 0 < error < 0.05


@pytest.mark.parametrize("dtype", ["f32", "float16", "q8_0"])
def test_gguf_of_each_type(run_export, step: Path, tmp_path: Path, dtype: str) -> None:
    said = run_export("--model", step, "--to", tmp_path / "out", "--format", "gguf", "--dtype", dtype)
    assert said[-1] == str(tmp_path / "out") and "read back by gguf: after 128 tokens" in said[0]
    file, = (tmp_path / "out").glob("*.gguf")
    assert f"FROM ./{file.name}\n" in (tmp_path / "out" / "Modelfile").read_text()


def test_an_export_that_is_wrong_is_not_kept(run_export, step: Path, tmp_path: Path, monkeypatch) -> None:
    right = export.read_gguf
    monkeypatch.setattr(export, "read_gguf", lambda *what: {name: w.roll(1, 0) for name, w in right(*what).items()})
    said = run_export("--model", step, "--to", tmp_path / "out", "--format", "gguf")
    assert "is not the model that was given" in said and not (tmp_path / "out").exists()


def test_mistakes_are_one_line(run_export, step: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    for words, said in ((("--to", tmp_path / "there"), "is there already"), (("--dtype", "q8_0"), "--format gguf"),
                        (("--to", tmp_path / "file" / "out"), "cannot write to")):
        assert said in run_export("--model", step, *words)
    assert "no model in" in run_export("--model", tmp_path / "there")
    convert(published_file(tmp_path / "snapshot.pt"), tmp_path / "legacy", "D")
    assert "legacy weights" in run_export("--model", tmp_path / "legacy", "--to", tmp_path / "out")


def test_the_card_says_what_the_run_left_behind(run_export, step: Path, tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    said = run_export("--model", step, "--card", "--to", tmp_path / "card", "--push_to_hub", "me/toy")
    assert said == [str(tmp_path / "card" / "README.md")] and len(list((tmp_path / "card").iterdir())) == 1
    card = Path(said[0]).read_text()
    state = json.loads((step / "train_state" / "state.json").read_text())
    last = [row for row in map(json.loads, (step.parent / "metrics.jsonl").read_text().splitlines())
            if row["split"] == "val"][-1]
    for fact in ("library_name: transformers", "# me/toy", "pretrained with SmolLlama", "dataset: toy", "6 steps",
                 f"{state['tokens']:,} tokens", f"1 x {state['hardware']}", f"loss {last['loss']:.4f}",
                 "| max_lr | 0.01 |", "> **Once upon a time**", 'from_pretrained("me/toy")', "--repo_id me/toy"):
        assert fact in card, fact
    assert str(step.parent.parent) not in card and "beta" not in card


def test_published_and_fetched_again_it_writes_the_same(run_export, step: Path, tmp_path: Path,
                                                        hub: Hub, get) -> None:  # noqa: F811
    hub.fault("/api/repos/create", status=503)
    said = run_export("--model", step, "--to", tmp_path / "out", "--push_to_hub", "me/toy")
    assert said[-2:] == [f"published at {hub.url}/me/toy", str(tmp_path / "out")] and not hub.faults
    assert "train_state" not in str(hub.repos["me/toy"].keys()) and "README.md" in hub.repos["me/toy"]
    folder = get("--repo_id", "me/toy")
    texts = []
    for source in (step, folder):
        speaker = load_speaker(source)
        texts.append(list(generate(speaker.model, speaker.tokenizer.encode("the fox"), 60, temperature=0.0)))
    assert texts[0] == texts[1] and len(texts[0]) == 60 and speaker.stage == "P"


def test_a_hub_that_refuses_leaves_the_export_to_be_published_later(run_export, step: Path, tmp_path: Path,
                                                                    hub: Hub) -> None:  # noqa: F811
    words = ("--model", step, "--to", tmp_path / "out", "--push_to_hub", "me/toy")
    hub.fault("/api/repos/create", status=401)
    assert "log in with" in run_export(*words)
    said = run_export(*words)
    assert "published as it is" in said[0] and said[-1] == str(tmp_path / "out") and hub.repos["me/toy"]


def test_ollamas_template_is_ours(tokenizer: Tokenizer) -> None:
    args = ModelArgs(embeddings_dims=16, no_of_heads=2, no_of_decoder_layers=1, vocab_size=320, block_size=64)
    text = modelfile("m.gguf", Speaker(Llama(args), tokenizer, "S"))
    template = re.search('TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    for go, jinja in ((r"\{\{ range \.Messages \}\}", "{% for m in messages %}"),
                      (r'\{\{ if eq \.Role ("\w+") \}\}', r"{% if m.role == \1 %}"),
                      (r'\{\{ else if eq \.Role ("\w+") \}\}', r"{% elif m.role == \1 %}"),
                      (r"\{\{ \.Content \}\}", "{{ m.content }}"),
                      (r"\{\{ end \}\}\{\{ end \}\}", "{% endif %}{% endfor %}")):
        template, count = re.subn(go, jinja, template)
        assert count
    rendered = Environment(keep_trailing_newline=True).from_string(template).render(messages=MESSAGES)
    assert rendered == tokenizer.hf.decode(tokenizer.render(MESSAGES)[0], skip_special_tokens=False)
    assert "{{ .Prompt }}" in modelfile("m.gguf", Speaker(Llama(args), tokenizer, "P"))
