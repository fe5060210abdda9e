"""Averages of checkpoints: the mean weight by weight, all else of the last; other architectures are refused."""

import json

import pytest
import torch
from exports import call, train_two_runs
from our_tokenizers import make_tokenizers

import export
from checkpoint import load_model, load_sampling, read_config, steps, write_model
from model import Llama
from publishing.averaging import average_models
from runtime.errors import UserError
from tokenizer import byte_level


@pytest.fixture
def write(tmp_path, tiny, spread):
    """Return a function that writes a model of random weights, other ones for each name; it returns its folder."""

    def write(name, tokenizer=None, legacy=False, **settings):
        torch.manual_seed(sum(map(ord, name)))
        tokenizer = tokenizer or byte_level()
        model = spread(Llama(tiny.replace(vocab_size=320, **settings), legacy))
        folder = tmp_path / name
        folder.mkdir()
        write_model(folder, model, tokenizer, {"stage": "S"})
        return folder

    return write


@pytest.mark.parametrize("tied", [True, False])
def test_each_weight_is_the_mean(write, tied):
    folders = [write(name, tie_embeddings=tied) for name in ("one", "two", "three")]
    states = [load_model(folder)[0].state_dict() for folder in folders]
    model = average_models(folders).model
    for name, weight in model.state_dict().items():
        mean = torch.stack([state[name].double() for state in states]).mean(0)
        assert torch.allclose(weight.double(), mean, rtol=1e-7, atol=0), name
        assert not torch.equal(weight, states[-1][name]) or "norm" in name
    assert (model.lm_head.weight is model.model["embed_tokens"].weight) == tied


def test_models_that_mean_other_things_are_refused(write):
    base = write("base")
    templated = write("templated")
    settings = templated / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": "{{ eos_token }}"}))
    for other, reason in (
        (templated, "their chat templates differ"),
        (write("wide", hidden_dims=64), "their hidden_dims is 64 and 48"),
        (write("long", block_size=64), "their block_size is 64 and 32"),
        (write("old", legacy=True), "architecture once published"),
        (write("words", make_tokenizers()["trained"]), "their tokenizers differ"),
    ):
        with pytest.raises(UserError, match=f"{other.name} and .*base have no average, .*{reason}") as error:
            average_models([other, base])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="has .*base twice"):
        average_models([base, base])


def test_an_average_is_exported_with_all_else_of_the_last(tmp_path, monkeypatch, capsys):
    """The card names the steps, and no other part of their paths; the steps are never replaced."""
    runs = train_two_runs(tmp_path / "private")
    both = [steps(runs / "P-toy")[-1], steps(runs / "S-asked")[-1]]
    target = tmp_path / "made"
    assert call(export, monkeypatch, capsys, "--average", *both, "--to", target)[-1] == str(target)

    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(load_model(target)[0](tokens), average_models(both).model(tokens))
    assert read_config(target)["smolllama"] == {"stage": "S"}
    assert load_sampling(target) == load_sampling(both[-1])
    text = (target / "README.md").read_text()
    assert f"mean of those of P-toy/{both[0].name}, S-asked/{both[1].name};" in text and "private" not in text

    for step in both:
        with pytest.raises(UserError, match="is not replaced"):
            call(export, monkeypatch, capsys, "--average", *both, "--to", step)
    copies = [
        call(export, monkeypatch, capsys, "--model", step, "--to", tmp_path / step.parent.name)[-1]
        for step in both
    ]
    with pytest.raises(UserError, match="it is the model itself"):
        call(export, monkeypatch, capsys, "--average", *copies, "--to", copies[0])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--average", "one"], "--average takes two steps or more"),
        (["--average", "one", "two", "--card"], "without --card"),
        (["--average", "one", "two", "--model", "three"], "not allowed with argument"),
        ([], "one of the arguments --model --average is required"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["export.py", "--to", "x", *words])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
