"""Model cards: the records of the runs that made a model, and no more than is known."""

import dataclasses
import json
import shutil

import pytest
from exports import call, train_two_runs, write_spread_model
from huggingface_hub import ModelCard
from toy import flags

import export
from publishing.model_card import _settings_table, training_history
from tokenizer import byte_level

QUICK = {"max_length": 5, "prompt": "the red fox"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of two short runs: pretraining, and fine-tuning from it."""
    return train_two_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def spread_model(tmp_path, tiny, spread):
    """Return a function that writes a model of random, spread weights; it returns (folder, model, tokenizer)."""

    def write(tokenizer, **settings):
        folder = tmp_path / "spread"
        return folder, write_spread_model(folder, tiny.replace(**settings), spread, tokenizer), tokenizer

    return write


def test_a_card_records_the_runs(runs, tmp_path, monkeypatch, capsys):
    lines = call(
        export, monkeypatch, capsys, "--model", runs / "S-asked", "--to", tmp_path / "cards", "--card"
    )
    assert lines == [str(tmp_path / "cards")]
    assert [path.name for path in (tmp_path / "cards").iterdir()] == ["README.md"]
    text = (tmp_path / "cards" / "README.md").read_text()
    for stage in training_history(runs / "S-asked" / (runs / "S-asked" / "latest").read_text()):
        assert (
            f"| {stage.name} | {stage.args.dataset} | 4 | 1,536 | {stage.last('train')['loss']:.4f} | "
            f"{stage.last('val')['loss']:.4f} |" in text
        )
        assert stage.hours > 0 and "1 x cpu" in text
    assert ModelCard(text).data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["smolllama", "llama", "pretraining", "fine-tuning"],
        "datasets": ["someone/stories"],
    }
    assert (
        "at revision 0123456789abcdef" in text
        and "answers.jsonl (123 bytes)" in text
        and "private" not in text
    )
    assert (
        "trained from scratch by pretraining then fine-tuning" in text and "| max_lr | 0.01 | 0.01 |" in text
    )
    for setting in ("muon_lr", "cooldown_iters", "| beta |", "epochs"):
        assert setting not in text  # of other optimizers, schedules and stages, or without a meaning here
    assert "seen 3,072 tokens of the data above and nothing else" in text and "licence not recorded" in text
    assert text.count("> **the fox**") == 3
    first, second = (shutil.copytree(runs / "S-asked", tmp_path / name) for name in "ab")
    for run, other in (first, "b"), (second, "a"):  # each, renamed, says that it began as the other
        step = (run / "latest").read_text()
        state = run / step / "train_state" / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "init_from": f"../{other}/{step}"}))
    assert len(training_history(first / step)) == 2


def test_a_card_of_a_model_without_a_run_says_no_more_than_is_known(
    spread_model, tmp_path, monkeypatch, capsys
):
    folder, model, _ = spread_model(byte_level())
    call(export, monkeypatch, capsys, "--model", folder, "--card", *flags(QUICK))
    text = (folder / "README.md").read_text()
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in text
    assert "## Training" not in text and "> **the red fox**" in text


def test_a_card_names_the_model_that_training_began_with(runs, tmp_path, monkeypatch, capsys):
    step = runs / "S-asked" / (runs / "S-asked" / "latest").read_text()
    folder = shutil.copytree(step, tmp_path / "guest")
    config = json.loads((folder / "config.json").read_text())
    base = {"name": "owner/Tiny-1M", "revision": "c0ffee", "license": "apache-2.0"}
    (folder / "config.json").write_text(
        json.dumps({**config, "smolllama": {"stage": "S", "base_model": base}})
    )

    shutil.rmtree(folder / "train_state")  # as another program would copy it
    call(export, monkeypatch, capsys, "--model", folder, "--card", *flags(QUICK))
    text = (folder / "README.md").read_text()
    link = "[owner/Tiny-1M](https://hf.co/owner/Tiny-1M) (revision c0ffee, licence apache-2.0)"
    assert f"made from {link}, its weights unchanged" in text and "from scratch" not in text
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("apache-2.0", "owner/Tiny-1M")

    call(export, monkeypatch, capsys, "--model", folder, "--card", "--license", "mit", *flags(QUICK))
    assert ModelCard((folder / "README.md").read_text()).data.license == "mit"


def test_only_settings_that_mattered_are_listed(runs):
    (stage,) = training_history(runs / "P-toy" / (runs / "P-toy" / "latest").read_text())
    pairs = dataclasses.replace(
        stage,
        args=stage.args.replace(train="D", optimizer="muon", lr_schedule="wsd", dropout=0.0),
        name="DPO",
    )
    _, _, *lines = _settings_table([stage, pairs]).splitlines()
    rows = dict(line.strip("| ").split(" | ", 1) for line in lines)
    assert rows["muon_lr"] == f"- | {stage.args.muon_lr}" and rows["beta"] == "- | 0.1"
    assert (
        rows["dropout"] == f"{stage.args.dropout} | -"
        and "cooldown_iters" in rows
        and "label_smoothing" not in rows
    )
