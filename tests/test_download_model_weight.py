"""Weights from the hub: every spelling, every fault, every kind of file that is not what it should be."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from examples import Bomb
from hub import REVISION, Hub, connect
from published import published_file, published_logits, published_state

import checkpoint
import download_model_weight
from checkpoint import load_model
from config import ModelArgs
from download_model_weight import PUBLISHED, SPELLINGS
from generation.chat import choose_model, stage_of
from model import Llama
from publishing import published_weights
from runtime import errors, hub_client
from runtime import hub as runtime_hub
from tokenizer import byte_level


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub with the published weights and a folder of ours, without waiting between tries."""
    snapshot = published_file(tmp_path / "snapshot.pt").read_bytes()
    torch.manual_seed(0)
    ours = tmp_path / "ours"
    ours.mkdir()
    args = ModelArgs(embeddings_dims=16, no_of_decoder_layers=1, no_of_heads=2, no_kv_heads=2, vocab_size=320)
    checkpoint.write_model(ours, Llama(args), byte_level(), {"stage": "S"})
    repos = {
        published.repo: {published.file: snapshot, "README.md": b"old"} for published in PUBLISHED.values()
    }
    repos["me/mine"] = {path.name: path.read_bytes() for path in ours.iterdir()} | {"../evil.json": b"{}"}
    monkeypatch.setattr(hub_client, "TIME_LIMIT", 2.0)
    monkeypatch.setattr(runtime_hub.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(published_weights, "gpt2", byte_level)  # GPT-2's takes a second
    with Hub({}, repos) as hub, connect(hub, monkeypatch):
        yield hub


@pytest.fixture
def get(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Return a function that runs the script; it returns the folder that is printed last, or an error's one line."""

    def run(*words: str) -> Path | str:
        target = ["--save_checkpoint_dir", str(tmp_path / "c")]
        monkeypatch.setattr("sys.argv", ["download_model_weight.py", *words, *target])
        try:
            errors.run_cli(download_model_weight.main)
        except SystemExit as stopped:
            assert stopped.code == 2
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1
            return lines[0]
        return Path(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.mark.parametrize(
    "words",
    [
        *((word,) for both in SPELLINGS.values() for word in both),
        *(("--model_type", name) for name in PUBLISHED),
    ],
    ids=" ".join,
)
def test_every_spelling_means_its_model(get, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    name = next((name for name, both in SPELLINGS.items() if words[0] in both), words[-1])
    downloads = []

    def download(repo: str, model_type: str, models_dir: Path) -> str:
        downloads.append((repo, model_type))
        return "here"

    monkeypatch.setattr(download_model_weight, "download", download)
    assert get(*words) == Path("here")
    assert downloads == [(PUBLISHED[name].repo, name)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_weights_run_here(get, name: str, tmp_path: Path) -> None:
    folder = get("--model_type", name)
    assert folder.name == PUBLISHED[name].repo.replace("/", "--")
    assert choose_model(name, ModelArgs(save_checkpoint_dir=str(tmp_path / "c"))) == folder
    tokens = torch.arange(30)[None]
    expected = published_logits(published_state(), tokens)
    with torch.no_grad():
        assert (load_model(folder)[0](tokens) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not list((tmp_path / "c").glob(".*")) and not list(folder.glob("*.pt"))


def test_a_folder_of_ours_is_the_same_here(get, hub: Hub, tmp_path: Path) -> None:
    folder = get("--repo_id", "me/mine")
    assert folder == tmp_path / "c" / "me--mine" and stage_of(folder) == "S"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == hub.models["me/mine"][name]
    assert not list(tmp_path.rglob("evil.json"))
    before = len(hub.requests)
    assert get("--repo_id", "me/mine") == folder
    assert not any("/resolve/" in path for path, _ in hub.requests[before:])  # it is here already
    source = (folder / "source.json").read_text()
    (folder / "source.json").write_text(source[:20])  # cut short: not known to be here
    assert get("--repo_id", "me/mine") == folder and (folder / "source.json").read_text() == source


def test_a_download_resumes_where_another_process_ended(get, hub: Hub, tmp_path: Path) -> None:
    hub.fault("/resolve/", times=5, status=404)
    assert "error" in get("-D")
    published = PUBLISHED["dpo"]
    part = next((tmp_path / "c").rglob("*.part"))
    content = hub.models[published.repo][published.file]
    part.write_bytes(content[:100_000])
    hub.faults.clear()
    hub.requests.clear()
    assert isinstance(get("-D"), Path)
    assert [size for path, size in hub.requests if "/resolve/" in path] == [len(content) - 100_000]


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": 50_000, "times": 6},
        {"status": 503, "times": 2},
        {"stall": 3.0},
        {"status": 429, "retry_after": 1},
    ],
    ids=str,
)
def test_faults_that_pass(get, hub: Hub, fault: dict) -> None:
    hub.fault("/resolve/", **fault)
    assert isinstance(get("-P"), Path) and not hub.faults


def test_a_damaged_start_is_thrown_away(get, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    published = PUBLISHED["sft"]
    partial = tmp_path / "c" / f".{published.repo.replace('/', '--')}.{REVISION[:12]}"
    partial.mkdir(parents=True)
    (partial / f"{published.file}.part").write_bytes(b"x" * 100_000)
    assert isinstance(get("-F"), Path)


def test_what_arrives_damaged_is_never_used(
    get, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = hub.content

    def damaged(path: str, span: str | None) -> tuple:
        status, body, headers = good(path, span)
        return status, body.replace(b"linear", b"linexr") if "/resolve/" in path else body, headers

    monkeypatch.setattr(hub, "content", damaged)
    assert "arrives damaged" in get("-D") and not list((tmp_path / "c").glob("[!.]*"))


def test_mistakes_and_refusals_are_one_line(get, hub: Hub, tmp_path: Path) -> None:
    hub.models["me/empty"] = {"notes.txt": b""}
    cut = hub.models["me/mine"]["model.safetensors"][:999]
    hub.models["me/broken"] = {**hub.models["me/mine"], "model.safetensors": cut}
    torch.save({"MODEL_STATE": Bomb()}, tmp_path / "bomb.pt")
    for name, data in (
        ("bomb", (tmp_path / "bomb.pt").read_bytes()),
        ("old", pickle.dumps({"MODEL_STATE": Bomb()})),
    ):
        hub.models[f"me/{name}"] = {PUBLISHED["dpo"].file: data}
    for words, message in (
        (("--repo_id", "me/nosuch"), "not on the hub"),
        (("--repo_id", "a/b/c"), "not the name"),
        (("--repo_id", "me/empty"), "neither"),
        ((), "no model is named"),
        (("--repo_id", PUBLISHED["dpo"].repo), "add --model_type"),
        (("--repo_id", "me/broken"), "broken or cut short"),
        (("-D", "--repo_id", "me/bomb"), "no code in it was run"),
        (("-D", "--repo_id", "me/old"), "no code in it was run"),
        (("-D", "--file", str(tmp_path / "nowhere.pt")), "nowhere.pt"),
    ):
        assert message in get(*words), words
    assert not list((tmp_path / "c").glob("[!.]*")) and not list(tmp_path.rglob("exploded"))
    assert not Path("exploded").exists()


def test_a_hub_that_is_away_leaves_what_is_here(
    get, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = get("--repo_id", "me/mine")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set: unset it" in get("--repo_id", "me/mine")
    hub.fault("/api/", times=9, status=500)
    assert "run the same command again later" in get("--repo_id", "me/mine") and load_model(folder)


def test_a_file_that_is_here_already(get, tmp_path: Path) -> None:
    folder = get("-D", "--file", str(tmp_path / "snapshot.pt"))
    assert folder == tmp_path / "c" / "snapshot"
    assert json.loads((folder / "config.json").read_text())["smolllama"]["legacy"]
