"""A user's mistakes: one line that names the fault and the remedy, exit code 2, and nothing changed."""

import json
import shutil

import pytest
from toy import TINY, flags, toy_dataset

import data
import evaluation
import inference_sft
import trainer
from runtime import errors
from runtime.checksums import write_checksums

LONG = "word " * 200
ASKED = {"role": "user", "content": "Hi"}
# (what is wrong, name of the file: kind and number, the second row of it, the end of the line)
BAD_TALKS = [
    ("no output", "instruct-0", {"instruction": "Hi"}, " has no column 'output'; it has 'instruction'"),
    (
        "an empty response",
        "instruct-1",
        {"instruction": "Hi", "output": " "},
        ": the response in 'output' is empty",
    ),
    (
        "an unknown role",
        "instruct-2",
        {"messages": [{"role": "bot", "content": "Hi"}]},
        ": turn 1 of 'messages' has the unknown role 'bot'; known are system, user, assistant",
    ),
    (
        "no answer",
        "instruct-3",
        {"messages": [ASKED]},
        ": the last turn of 'messages' is the user's, not the assistant's",
    ),
    ("no content", "instruct-4", {"messages": [{"role": "user"}]}, ": turn 1 of 'messages' is {{'role': "),
    (
        "equal answers",
        "preference-0",
        {"prompt": "Hi", "chosen": "x", "rejected": "x"},
        ": chosen and rejected are the same",
    ),
    ("one answer", "preference-1", {"prompt": "Hi", "chosen": "x"}, " has no column 'rejected'"),
    (
        "no common prompt",
        "preference-2",
        {"chosen": "x", "rejected": "y"},
        ": chosen and rejected have no turn in",
    ),
]
# (what the user did, script, flags, words of the line). {tmp} is a folder with data/toy and a run of it.
MISTAKES = [
    (
        "a file that is not there",
        data,
        "--files {tmp}/nowhere.txt --name x",
        "no such file or folder: {tmp}/nowhere.txt",
    ),
    ("an empty file", data, "--files {tmp}/empty.txt --name x", "{tmp}/empty.txt is empty"),
    (
        "a broken JSONL row",
        data,
        "--files {tmp}/broken.jsonl --name x",
        "{tmp}/broken.jsonl row 2 is not JSON",
    ),
    (
        "a wrong column",
        data,
        "--files {tmp}/column.jsonl --name x",
        "row 1 has no column 'text'; it has 'body'",
    ),
    *(
        (
            f"a conversation: {name}",
            data,
            f"--files {{tmp}}/{kind}.jsonl --kind {kind.split('-')[0]} --name x",
            f"{{tmp}}/{kind}.jsonl row 2{line}",
        )
        for name, kind, _, line in BAD_TALKS
    ),
    ("a kind without files", data, "--stories --kind instruct", "--kind goes with --files"),
    (
        "a row that is not there",
        data,
        "--show toy --row 100000",
        "the train set of {tmp}/data/toy has 600 rows",
    ),
    (
        "data of another stage",
        trainer,
        "--train D",
        "--dataset toy is of kind text; --train D needs preference",
    ),
    ("too much label smoothing", trainer, "--train D --label_smoothing 0.5", "--label_smoothing 0.5 must be"),
    (
        "an unknown dataset",
        trainer,
        "--dataset nosuch",
        "no prepared dataset in {tmp}/data/nosuch (there are: toy)",
    ),
    (
        "a path as the name of a dataset",
        trainer,
        "--dataset {tmp}/data/toy",
        "{tmp}/data/toy is a path, not the name of a dataset: give --dataset toy",
    ),
    (
        "a path as a dataset to evaluate",
        evaluation,
        "--model {tmp}/runs/P-toy --dataset elsewhere/toy",
        "give --dataset toy --data_dir elsewhere",
    ),
    ("a path to show", data, "--show data/toy", "--show data/toy must be a plain folder name, such as toy"),
    (
        "a vocabulary smaller than the data's",
        trainer,
        "--vocab_size 100",
        "--vocab_size 100 is smaller than the 257",
    ),
    (
        "a block longer than the corpus",
        trainer,
        "--block_size 100000",
        "fewer than one row of --block_size 100000",
    ),
    (
        "heads that don't divide",
        trainer,
        "--no_of_heads 5",
        "--no_of_heads 5 is not a multiple of --no_kv_heads 2",
    ),
    (
        "a resumed model of another shape",
        trainer,
        "--resume --embeddings_dims 64",
        "--embeddings_dims 64 does not match the checkpoint in",
    ),
    (
        "a folder that cannot be written",
        trainer,
        "--save_checkpoint_dir {tmp}/empty.txt",
        "cannot write to {tmp}",
    ),
    ("nothing to resume", trainer, "--resume --run_name other", "no model in {tmp}/runs/other"),
    ("other data than the resumed run's", trainer, "--resume --run_name moved", "is not the data that"),
    ("a prompt longer than the rows", trainer, "--block_size 8 --prompt 123456789", "--prompt has 9 tokens"),
    ("no learning rate", trainer, "--max_lr 0", "--max_lr 0.0 must be above 0"),
    ("a run that is the folder of runs", trainer, "--run_name .", "--run_name . must name a folder below"),
    ("a run elsewhere", trainer, "--run_name ../x", "--run_name ../x must name a folder below"),
    (
        "smoothing of another loss",
        trainer,
        "--label_smoothing 0.1 --dpo_loss ipo",
        "works with --dpo_loss sigmoid only",
    ),
    ("no number", trainer, "--stall_minutes inf", "--stall_minutes inf is not a finite number"),
    ("an unknown flag", trainer, "--learning_rate 1", "--learning_rate is no flag of trainer.py"),
    ("a shortened flag", trainer, "--max_l 1", "did you mean --max_lr or --max_length?"),
    (
        "a prompt longer than the context",
        inference_sft,
        "--model {tmp}/runs/P-toy --prompt " + LONG,
        "the prompt has",
    ),
    (
        "a model that is not there",
        inference_sft,
        "--model {tmp}/nowhere --prompt x",
        "no model in {tmp}/nowhere",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("mistakes")
    toy_dataset(tmp / "data")
    (tmp / "empty.txt").touch()
    (tmp / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (tmp / "column.jsonl").write_text('{"body": "one"}\n')
    for _, name, row, _ in BAD_TALKS:
        good = {"prompt": "Hi", "chosen": "a", "rejected": "b", "instruction": "Hi", "output": "a"}
        (tmp / f"{name}.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    words = flags({**TINY, "data_dir": tmp / "data", "save_checkpoint_dir": tmp / "runs", "total_iters": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["trainer.py", *words])
        trainer.main()
    moved = shutil.copytree(tmp / "runs" / "P-toy", tmp / "runs" / "moved")
    state = moved / "step_000001" / "train_state" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "data": "0" * 64}))
    write_checksums(state.parent, {})
    return tmp


@pytest.mark.parametrize("fault, script, cli, line", MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_mistake_gets_one_line_and_exit_code_2(folder, capsys, monkeypatch, fault, script, cli, line):
    words = cli.format(tmp=folder).split()
    if "--prompt" in words:
        start = words.index("--prompt") + 1
        words[start:] = [" ".join(words[start:])]
    if script is trainer:
        names = {word for word in words if word.startswith("--")}
        settings = {**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs"}
        words = flags({name: value for name, value in settings.items() if f"--{name}" not in names}) + words
    if script is data:
        words += ["--data_dir", str(folder / "data"), "--num_proc", "1"]
        words += ["--tokenizer", "bytes"] * ("--show" not in words)
    before = sorted(path for path in folder.rglob("*") if ".x.partial" not in str(path))
    monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *words])
    with pytest.raises(SystemExit) as stopped:
        errors.run_cli(script.main)
    lines = [
        text for text in capsys.readouterr().err.splitlines() if text.strip() and "tokens/s]" not in text
    ]
    assert stopped.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and line.format(tmp=folder) in lines[0], lines
    assert sorted(path for path in folder.rglob("*") if ".x.partial" not in str(path)) == before
