"""Set-up of a run: each step of resolve_run, and the order in which values win."""

from pathlib import Path

import pytest
import torch
from toy import TINY, toy_dataset

import checkpoint
from config import ModelArgs
from model import Llama
from runtime.errors import UserError
from tokenizer import byte_level, from_ranks
from training import state
from training.settings import choose_stage_and_data, preset_note, resolve_run, resolve_vocab_size
from training.state import TrainState, data_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy data of each kind."""
    folder = tmp_path_factory.mktemp("settings")
    for name, kind in ("toy", "text"), ("talks", "instruct"), ("pairs", "preference"):
        toy_dataset(folder / "data", name, 60, kind)
    return folder


def cli(folder: Path, **settings: object) -> dict[str, object]:
    """Return a command line for the data in a folder."""
    places = {"data_dir": str(folder / "data"), "save_checkpoint_dir": str(folder / "runs")}
    return {**TINY, **places, **settings}


def save_step(folder: Path, cli_args: dict[str, object], **metadata: object) -> Path:
    """Write a checkpoint of step 3 of the run that a command line describes; return its folder."""
    setup = resolve_run(cli_args)
    torch.manual_seed(0)
    model = Llama(setup.args)
    stored = {"args": setup.args.explicit, "data": data_hash(setup.meta), "skips": {}, "init_from": ""}
    return state.save(
        setup.folder,
        TrainState(step=3, rows_consumed=24, tokens=768),
        model,
        setup.tokenizer,
        model.state_dict(),
        {},
        {**stored, **metadata},
    )


def test_a_new_run_has_the_settings_of_its_command_line(folder: Path) -> None:
    setup = resolve_run(cli(folder, total_iters=9))
    assert setup.args.total_iters == 9 and setup.args.dataset == "toy" and setup.args.run_name == "P-toy"
    assert setup.args.vocab_size == 320  # 257 tokens, rounded up
    assert setup.folder == folder / "runs" / "P-toy" and setup.start.weights is None
    assert not setup.continues and setup.prompt_ids == list(b"the fox")


def test_args_are_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = ModelArgs.__post_init__
    monkeypatch.setattr(ModelArgs, "__post_init__", lambda self: (built.append(1), real(self)))
    resolve_run(cli(folder, dry_run=True))
    assert len(built) == 1


@pytest.mark.parametrize(
    "train, dataset, meant",
    [("P", "toy", "P"), ("P", "talks", "S"), ("S", "talks", "S"), ("D", "pairs", "D")],
)
def test_stage_and_dataset(folder: Path, train: str, dataset: str, meant: str) -> None:
    stage, mixture = choose_stage_and_data(cli(folder, train=train, dataset=dataset))
    assert (stage, mixture.folders) == (meant, (folder / "data" / dataset,))


def test_the_first_prepared_dataset_of_the_kind_is_taken(folder: Path) -> None:
    assert choose_stage_and_data(cli(folder, train="D", dataset=None))[1].name == "pairs"


@pytest.mark.parametrize("train, dataset", [("D", "toy"), ("S", "toy"), ("P", "pairs")])
def test_a_dataset_of_another_kind_is_refused(folder: Path, train: str, dataset: str) -> None:
    with pytest.raises(UserError, match=f"--dataset {dataset} is of kind .*; --train {train} needs"):
        choose_stage_and_data(cli(folder, train=train, dataset=dataset))


def test_a_resumed_run_keeps_its_settings_unless_they_are_typed(folder: Path) -> None:
    step = save_step(folder, cli(folder, run_name="kept", max_lr=5e-3, total_iters=6))
    typed = cli(folder, run_name="kept", resume=True, total_iters=8)
    del typed["max_lr"]
    setup = resolve_run(typed)
    assert setup.args.max_lr == 5e-3 and setup.args.total_iters == 8
    assert setup.start.weights == step and setup.start.progress == TrainState(3, 24, 768)
    assert setup.continues and setup.args.resume


def test_a_run_is_resumed_by_its_name_alone(folder: Path) -> None:
    save_step(folder, cli(folder, run_name="talking", train="S", dataset="talks", block_size=64))
    typed = {"resume": True, "run_name": "talking", "save_checkpoint_dir": str(folder / "runs")}
    setup = resolve_run(typed)
    assert (setup.args.train, setup.args.dataset) == ("S", "talks")
    assert setup.dataset == folder / "data" / "talks" and setup.start.progress.step == 3

    # What is typed counts: the data may have been moved.
    assert resolve_run({**typed, "data_dir": str(folder / "runs" / ".." / "data")}).start.progress.step == 3
    with pytest.raises(UserError, match="no prepared dataset in /nowhere/talks"):
        resolve_run({**typed, "data_dir": "/nowhere"})


@pytest.mark.parametrize(("name", "value"), [("optimizer", "muon"), ("seed", 2)])
def test_what_a_resumed_run_cannot_change_is_refused(folder: Path, name: str, value: object) -> None:
    save_step(folder, cli(folder, run_name="fixed"))
    typed = cli(folder, run_name="fixed", resume=True)
    with pytest.raises(
        UserError, match=f"cannot resume a run of --{name} .* with --{name} {value}: .*drop the flag"
    ):
        resolve_run({**typed, name: value})


def test_values_of_a_preset_that_a_resumed_run_does_not_take_are_named(folder: Path) -> None:
    save_step(folder, cli(folder, run_name="preset", warmup_iters=3))
    typed = cli(folder, run_name="preset", resume=True, preset="shakespeare")
    del typed["warmup_iters"]
    (note,) = preset_note(resolve_run({**typed, "optimizer": "adamw"}))
    assert "--warmup_iters 3" in note and "--max_length" not in note
    del typed["preset"]
    assert preset_note(resolve_run(typed)) == []


def test_init_from_fixes_the_architecture_but_not_the_context(folder: Path) -> None:
    step = save_step(folder, cli(folder, run_name="source"))
    typed = cli(folder, run_name="next", init_from=str(step), block_size=48)
    for name in ("embeddings_dims", "no_of_heads", "no_kv_heads", "no_of_decoder_layers"):
        del typed[name]
    args = resolve_run(typed).args
    assert (args.embeddings_dims, args.no_of_heads, args.block_size) == (32, 4, 48)

    with pytest.raises(
        UserError, match="--embeddings_dims 64 does not match the checkpoint in .*drop the flag"
    ):
        resolve_run({**typed, "embeddings_dims": 64})
    with pytest.raises(UserError, match="give this one another --run_name"):
        resolve_run({**typed, "run_name": "source"})


def test_weights_of_another_tokenizer_are_refused(folder: Path, tmp_path: Path) -> None:
    other = from_ranks({bytes([i]): 255 - i for i in range(256)})
    checkpoint.write_model(tmp_path, Llama(ModelArgs(**resolve_run(cli(folder)).args.explicit)), other, {})
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        resolve_run(cli(folder, run_name="next", init_from=str(tmp_path)))


def test_vocab_size() -> None:
    tokenizer = byte_level()
    assert resolve_vocab_size(None, tokenizer) == 320 and resolve_vocab_size(257, tokenizer) == 257
    with pytest.raises(UserError, match="--vocab_size 256 is smaller than the 257 tokens of the data"):
        resolve_vocab_size(256, tokenizer)


def test_a_prompt_that_does_not_fit(folder: Path) -> None:
    with pytest.raises(UserError, match="--prompt has 7 tokens; a --block_size of 4 holds fewer"):
        resolve_run(cli(folder, block_size=4))
    default = cli(folder, block_size=4)
    del default["prompt"]
    assert resolve_run(default).prompt_ids == []  # the default's sample is skipped
