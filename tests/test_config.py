"""Settings: one field, one flag; precedence; derived values; complaints that name their flags."""

import dataclasses
import itertools
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import config
from config import PRESETS, ModelArgs, Parser, resolve, settings_table
from model import count_parameters
from runtime.errors import UserError

FLAGS = [f for f in dataclasses.fields(ModelArgs) if f.metadata["group"] != config.NO_FLAG]
GROUPS = {f.metadata["group"] for f in FLAGS}
NAMES = [f.name for f in FLAGS]

# DESIGN.md section 2: the defaults, and the command that must start as typed.
DEFAULTS = {
    "epochs": 4,
    "block_size": 512,
    "batch_size": 64,
    "embeddings_dims": 512,
    "attn_dropout": 0.1,
    "no_of_heads": 8,
    "dropout": 0.1,
    "val_epochs": 2,
    "max_lr": 6e-4,
    "no_of_decoder_layers": 8,
    "weight_decay_optim": 0.1,
    "beta_1": 0.9,
    "beta_2": 0.95,
    "clip": 1.0,
    "device": "cuda",
    "beta": 0.1,
    "no_kv_heads": 2,
    "vocab_size": 50304,
    "eps": 1e-5,
    "dtype": None,
    "save_checkpoint_dir": "checkpoints",
    "prompt": "Once upon a time",
    "save_checkpoint_iter": 50,
    "total_iters": 10000,
    "eval_iters": 50,
    "eval_check": 100,
    "warmup_iters": 700,
    "min_lr": 0.1 * 6e-4,
    "lr_decay_iters": 10000,
    "total_batch_size": 524288,
    "micro_batch_size": 64,
    "gradient_accumulation_steps": 16,
    "max_length": 100,
    "temperature": 0.8,
}
COMMAND = """
    --train P --epochs 4 --beta 0.1 --block_size 256 --batch_size 128
    --embeddings_dims 512 --attn_dropout 0.1 --no_of_heads 8 --dropout 0.1 --val_epochs 2 --max_lr 6e-4
    --no_of_decoder_layers 16 --weight_decay_optim 0.1 --beta_1 0.9 --beta_2 0.95 --clip 1.0 --device cuda
    --no_kv_heads 2 --vocab_size 50304 --eps 1e-5 --dtype bfloat16 --save_checkpoint_dir checkpoints
    --prompt "Once upon a time" --save_checkpoint_iter 50 --total_iters 20000 --eval_iters 50 --eval_check 100
    --warmup_iters 700 --min_lr 6e-5 --lr_decay_iters 20000 --total_batch_size 524288
    --micro_batch_size 128 --gradient_accumulation_steps 4096 --max_length 100 --temperature 0.8
"""
TYPED = {
    "train": "P",
    "epochs": 4,
    "beta": 0.1,
    "block_size": 256,
    "batch_size": 128,
    "embeddings_dims": 512,
    "attn_dropout": 0.1,
    "no_of_heads": 8,
    "dropout": 0.1,
    "val_epochs": 2,
    "max_lr": 6e-4,
    "no_of_decoder_layers": 16,
    "weight_decay_optim": 0.1,
    "beta_1": 0.9,
    "beta_2": 0.95,
    "clip": 1.0,
    "device": "cuda",
    "no_kv_heads": 2,
    "vocab_size": 50304,
    "eps": 1e-5,
    "dtype": "bfloat16",
    "save_checkpoint_dir": "checkpoints",
    "prompt": "Once upon a time",
    "save_checkpoint_iter": 50,
    "total_iters": 20000,
    "eval_iters": 50,
    "eval_check": 100,
    "warmup_iters": 700,
    "min_lr": 6e-5,
    "lr_decay_iters": 20000,
    "total_batch_size": 524288,
    "micro_batch_size": 128,
    "gradient_accumulation_steps": 4096,
    "max_length": 100,
    "temperature": 0.8,
}


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def parse(line: str) -> dict:
    """What is typed, by the names of the fields."""
    parser = Parser("test")
    parser.add_settings(GROUPS)
    return vars(parser.parse_args(shlex.split(line)))


def another(f: dataclasses.Field) -> object:
    """A value of the field's type that is not its default."""
    hint = typing.get_type_hints(ModelArgs)[f.name]
    if type(None) in typing.get_args(hint):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[-1]
    if typing.get_origin(hint) is tuple:
        return ["some words", "one"]
    if hint is str:
        return "some words"
    return (
        not f.default
        if hint is bool
        else hint((f.default or 0) + 0.125 if hint is float else (f.default or 0) + 3)
    )


def test_every_field_has_help_and_a_group() -> None:
    assert len(NAMES) > 40
    for f in dataclasses.fields(ModelArgs):
        assert f.metadata["help"] and f.metadata["group"], f.name


def test_the_help_shows_every_flag(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    shown = capsys.readouterr().out
    assert [name for name in NAMES if f"--{name} " not in shown and f"--{name}," not in shown] == []


@pytest.mark.parametrize("f", FLAGS, ids=lambda f: f.name)
def test_a_flag_reaches_its_field(f: dataclasses.Field) -> None:
    value = another(f)
    switch = isinstance(value, bool)
    words = shlex.join(value if isinstance(value, list) else [str(value)])
    typed = parse(f"--{'' if value else 'no-'}{f.name}" if switch else f"--{f.name} {words}")
    assert typed == {f.name: value} and type(typed[f.name]) is type(value)
    assert f.name == "train" or value != f.default


def test_defaults_are_those_of_the_design() -> None:
    args = ModelArgs()
    assert {name: getattr(args, name) for name in DEFAULTS} == DEFAULTS
    assert args.tokens_per_step == 524288 and args.rows_per_step == 1024


def test_the_long_command_parses_as_typed() -> None:
    typed = parse(COMMAND)
    assert typed == TYPED
    args = resolve(typed)
    assert {name: getattr(args, name) for name in TYPED} == TYPED


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "stories", {"max_lr": 2.0, "clip": 2.0, "dropout": 0.25})
    stored, typed = {"clip": 3.0, "dropout": 0.375}, {"preset": "stories", "dropout": 0.5}
    args = resolve(typed, stored)
    assert (args.eps, args.max_lr, args.clip, args.dropout) == (1e-5, 2.0, 3.0, 0.5)
    assert resolve({"dropout": 0.5}, stored).max_lr == 6e-4  # no preset asked for
    assert resolve({"model": "folder", "seed": 3}).seed == 3  # a script's own flags are no settings


def test_a_stored_run_keeps_what_was_asked_for() -> None:
    first = resolve({"max_lr": 1e-3, "batch_size": 8})
    again = resolve({"max_lr": 1e-2}, first.explicit)
    assert again.batch_size == again.micro_batch_size == 8
    assert again.min_lr == pytest.approx(1e-3)  # it was never given, so it follows


def derived(**given: object) -> tuple:
    args = ModelArgs(**given)
    assert args == ModelArgs().replace(**given) == ModelArgs(clip=0.5, **given).replace(clip=1.0)
    return tuple(getattr(args, name) for name in config.DERIVED_DEFAULTS)


def test_derived_values_follow() -> None:
    names = list(config.DERIVED_DEFAULTS)
    usual = dict(zip(names, derived(), strict=True))
    assert usual == {
        "vocab_size": 50304,
        "head_dim": 64,
        "hidden_dims": 1408,
        "micro_batch_size": 64,
        "gradient_accumulation_steps": 16,
        "min_lr": 0.1 * 6e-4,
        "lr_decay_iters": 10000,
    }
    cases = [
        ({"max_lr": 1e-3}, {"min_lr": 1e-4}),
        ({"batch_size": 8}, {"micro_batch_size": 8, "gradient_accumulation_steps": 128}),
        ({"micro_batch_size": 32}, {"micro_batch_size": 32, "gradient_accumulation_steps": 32}),
        ({"block_size": 256}, {"gradient_accumulation_steps": 32}),
        ({"total_batch_size": 65536}, {"gradient_accumulation_steps": 2}),
        ({"total_batch_size": 1}, {"gradient_accumulation_steps": 1}),
        ({"no_of_heads": 16}, {"head_dim": 32}),
        ({"embeddings_dims": 768, "no_of_heads": 12}, {"hidden_dims": 2048}),
        ({"total_iters": 900}, {"lr_decay_iters": 900}),
    ]
    for given, follows in cases:
        assert dict(zip(names, derived(**given), strict=True)) == pytest.approx({**usual, **follows}), given
    given = {
        "min_lr": 0.0,
        "head_dim": 32,
        "hidden_dims": 100,
        "gradient_accumulation_steps": 3,
        "lr_decay_iters": 800,
        "micro_batch_size": 5,
        "vocab_size": 96,
    }
    assert dict(zip(names, derived(**given), strict=True)) == given  # what is given is kept


def test_accumulation_follows_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    args = ModelArgs()
    assert (args.gradient_accumulation_steps, args.tokens_per_step) == (2, 524288)
    assert args.replace(batch_size=32).gradient_accumulation_steps == 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert args.replace().gradient_accumulation_steps == 8


def test_settings_are_frozen() -> None:
    args = ModelArgs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        args.max_lr = 1.0
    assert args.replace(max_lr=1.0).max_lr == 1.0 and args.max_lr == 6e-4


@pytest.mark.parametrize(
    "line",
    [
        "--max_le 3",
        "--max-lr 3",
        "--bogus 1",
        "--epochs three",
        "--train X",
        "stray",
        "--dtype int8",
        "--epochs",
    ],
)
def test_a_wrong_flag_exits_2_with_one_line(line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(line)
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and line.split()[0] in err


@pytest.mark.parametrize(
    "given, flags",
    [
        ({"no_of_heads": 6, "no_kv_heads": 4, "embeddings_dims": 384}, ["--no_of_heads", "--no_kv_heads"]),
        ({"embeddings_dims": 100}, ["--embeddings_dims", "--no_of_heads"]),
        ({"embeddings_dims": 100, "head_dim": 16}, ["--embeddings_dims", "--no_of_heads"]),
        ({"eps": 1e300}, ["--eps"]),
        ({"head_dim": 33}, ["--head_dim"]),
        ({"embeddings_dims": 24}, ["--head_dim", "--embeddings_dims", "--no_of_heads"]),
        ({"min_lr": 1e-2}, ["--min_lr", "--max_lr"]),
        ({"seed": 10**20}, ["--seed"]),
        ({"dropout": 1.0}, ["--dropout"]),
        ({"attn_dropout": -0.1}, ["--attn_dropout"]),
        ({"beta_2": 1.0}, ["--beta_2"]),
        ({"muon_momentum": 1.0}, ["--muon_momentum"]),
        ({"no_of_heads": 0}, ["--no_of_heads"]),
        ({"micro_batch_size": 0}, ["--micro_batch_size"]),
        ({"block_size": 0}, ["--block_size"]),
        ({"total_iters": 0}, ["--total_iters"]),
        ({"device": "tpu"}, ["--device"]),
        ({"top_p": 0.0}, ["--top_p"]),
        ({"top_p": 1.5}, ["--top_p"]),
        ({"max_lr": float("nan")}, ["--max_lr"]),
        ({"temperature": -1.0}, ["--temperature"]),
        ({"temperature": 1e-300}, ["--temperature"]),
        ({"temperature": float("inf")}, ["--temperature"]),
        ({"top_k": -1}, ["--top_k"]),
        ({"min_p": 1.1}, ["--min_p"]),
        ({"repetition_penalty": 0.0}, ["--repetition_penalty"]),
        ({"repetition_penalty": 1e300}, ["--repetition_penalty"]),
        ({"frequency_penalty": 1e300}, ["--frequency_penalty"]),
        ({"frequency_penalty": float("-inf")}, ["--frequency_penalty"]),
        ({"num_beams": 101}, ["--num_beams"]),
        ({"epochs": 0, "clip": -1.0}, ["--epochs", "--clip"]),  # all complaints at once
    ],
)
def test_impossible_settings_name_their_flags(given: dict, flags: list[str]) -> None:
    with pytest.raises(UserError) as error:
        ModelArgs(**given)
    message = str(error.value)
    assert all(f"{flag} " in message for flag in flags) and "\n" not in message
    assert f"{flags[0]} {next(iter(given.values()))}" in message or flags[0] == "--head_dim"


def test_the_seed_may_be_none() -> None:
    assert (
        ModelArgs().replace(seed=None).seed is None
    )  # as where the page's box is empty: another text each time


def test_every_smallest_value_is_checked() -> None:
    limited = [f for f in dataclasses.fields(ModelArgs) if f.metadata["minimum"] is not None]
    assert len(limited) > 25
    for f in limited:
        with pytest.raises(UserError, match=f"--{f.name} "):
            ModelArgs(**{f.name: type(f.metadata["minimum"])(f.metadata["minimum"] - 1)})


def test_the_130m_preset_is_that_large() -> None:
    args = resolve({"preset": "smol-130m"})
    shape = args.embeddings_dims, args.no_of_decoder_layers, args.no_of_heads, args.no_kv_heads
    assert shape == (768, 15, 12, 2)
    assert count_parameters(args) == 130_080_000
    assert (
        round(count_parameters(args.replace(vocab_size=50257)) / 1e6, 1) == 130.0
    )  # without the 47 rows of padding


def test_every_preset_offered_exists() -> None:
    hint = typing.get_type_hints(ModelArgs)["preset"]
    offered = set(itertools.chain(*(typing.get_args(part) for part in typing.get_args(hint))))
    assert offered == set(PRESETS)


def test_presets_are_settings() -> None:
    for name, preset in PRESETS.items():
        args = resolve({"preset": name})
        assert {key: getattr(args, key) for key in preset} == preset


def test_the_table_has_every_flag() -> None:
    rows = settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [f"--{name}" for name in NAMES]
    assert all(row.count("|") == 4 for row in rows)
    assert "| `--max_lr` | `0.0006` | peak learning rate |" in rows


@pytest.mark.parametrize(
    "error, code, said",
    [
        ("errors.UserError('a mistake')", 2, "error: a mistake\n"),
        ("errors.RunError('bad luck')", 1, "error: bad luck\n"),
        ("KeyboardInterrupt", 130, "interrupted\n"),
        (
            "OSError(28, 'No space left on device', 'a.txt')",
            1,
            "error: a.txt: No space left on device: make room there\n",
        ),
        (
            "OSError(13, 'Permission denied')",
            2,
            "error: the output: Permission denied: change its permissions\n",
        ),
    ],
)
def test_run_ends_with_one_line_and_a_code(error: str, code: int, said: str) -> None:
    script = f"from runtime import errors\ndef main(): raise {error}\nerrors.run_cli(main)"
    root = Path(config.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_a_reader_who_has_seen_enough_is_no_error_and_what_is_unknown_keeps_its_traceback() -> None:
    root, script = (
        Path(config.__file__).parent,
        "from runtime.errors import run_cli\ndef main():\n {}\nrun_cli(main)",
    )
    endless = [sys.executable, "-c", script.format("while True: print('more')")]
    with subprocess.Popen(
        endless, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "more\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 1
    for error in "BrokenPipeError", "ConnectionResetError(104, 'a bug')":
        done = subprocess.run(
            [sys.executable, "-c", script.format(f"raise {error}")], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("ranks", ["two", "0", "-1", ""])
def test_a_number_of_ranks_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, ranks: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(UserError, match=f"WORLD_SIZE={ranks} in the environment is no number of ranks"):
        ModelArgs()
