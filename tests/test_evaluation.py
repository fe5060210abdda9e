"""Scores against the plain computation, with and without a reference, and what people and programs see."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluation
from config import ModelArgs
from dataprep.shards import FORMAT, ShardWriter
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from runtime.files import write_json
from tokenizer import Tokenizer
from training.state import TrainState, save

WORDS = ["the fox ran", "a small boat", "an old red hill", "the lake", "near the gate"]


@pytest.fixture
def args(tiny: ModelArgs) -> ModelArgs:
    return tiny.replace(vocab_size=320, block_size=96)


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Tokenizer):
    """Writes conversations (a list of parts each) as a validation set of a kind; returns data/NAME."""

    def write(kind: str, talks: list[list[tuple[str, str]]]) -> Path:
        folder = tmp_path / "data" / kind
        folder.mkdir(parents=True)
        writer = ShardWriter(folder, "val", 0, np.uint16, with_loss_mask=kind != "text")
        for question, answer in (talk for group in talks for talk in group):
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            ids, keep = tokenizer.render(turns)
            writer.add(
                np.array(ids), np.array(keep) if kind != "text" else None, len(answer), is_complete=True
            )
        write_json(
            folder / "meta.json",
            {
                "format": FORMAT,
                "kind": kind,
                "splits": {"train": [], "val": [writer.close()]},
                "tokenizer": {"hash": tokenizer.hash, "vocab_size": 257, "eos_id": 256},
            },
        )
        return folder

    return write


def saved(folder: Path, model: Llama, tokenizer: Tokenizer, **state: object) -> Path:
    described = {"data": "", "stage": "pretraining", "world_size": 1, "init_from": None}
    state = {"args": {**model.args.explicit, "train": folder.name[0]}, **described, **state}
    folder.mkdir()
    return save(folder, TrainState(1, 0, 0), model, tokenizer, model.state_dict(), {}, state)


def logps(model: Llama, tokenizer: Tokenizer, question: str, answer: str) -> torch.Tensor:
    """Log-probs of the tokens of an answer, alone, without packing."""
    ids, keep = tokenizer.render(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    )
    tokens = torch.tensor([ids])
    found = -F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:], reduction="none")
    return found[torch.tensor(keep[1:])]


@torch.no_grad()
def test_instructions_are_measured_on_what_is_learned(
    args, prepared, tokenizer: Tokenizer, env: DistributedEnv, spread, tmp_path: Path
) -> None:
    talks = [("say it", words) for words in WORDS]
    model = spread(Llama(args)).eval()
    found = evaluation.dataset_scores(
        model,
        tokenizer,
        None,
        prepared("instruct", [[talk] for talk in talks]),
        args.replace(batch_size=2),
        env,
    )
    plain = torch.cat([logps(model, tokenizer, *talk) for talk in talks])
    assert found["tokens"] == len(plain) and found["loss"] == pytest.approx(-plain.mean().item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(
        -plain.sum().item() / math.log(2) / sum(map(len, WORDS)), rel=1e-5
    )
    cut = evaluation.dataset_scores(
        model, tokenizer, None, tmp_path / "data" / "instruct", args, env, block_size=16
    )
    assert 0 < cut["tokens"] < found["tokens"] and "bits_per_byte" not in cut


@torch.no_grad()
def test_preferences_are_compared_with_the_reference(
    args, prepared, tokenizer: Tokenizer, env: DistributedEnv, spread
) -> None:
    pairs = [[("say it", a), ("say it", b)] for a, b in zip(WORDS, WORDS[1:], strict=False)]
    model, reference = spread(Llama(args)).eval(), spread(Llama(args)).eval()
    data = prepared("preference", pairs)
    found = evaluation.dataset_scores(
        model, tokenizer, reference, data, args.replace(beta=0.3, batch_size=2), env
    )
    ours, theirs = (
        torch.stack([torch.stack([logps(m, tokenizer, *talk).sum() for talk in pair]) for pair in pairs])
        for m in (model, reference)
    )
    margin = 0.3 * ((ours - theirs)[:, 0] - (ours - theirs)[:, 1])
    assert found["margin"] == pytest.approx(margin.mean().item(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((margin > 0).float().mean().item())
    assert found["preferred"] == pytest.approx((ours[:, 0] > ours[:, 1]).float().mean().item())
    assert found["pairs"] == len(pairs)
    assert found["loss"] * found["tokens"] == pytest.approx(-ours.sum().item(), rel=1e-4)
    alone = evaluation.dataset_scores(model, tokenizer, None, data, args, env)
    assert "margin" not in alone and alone["loss"] == pytest.approx(found["loss"], rel=1e-5)


def script(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["evaluation.py", *map(str, words), "--device", "cpu"])
    evaluation.main()


def test_several_models_make_a_table(
    args, prepared, tokenizer: Tokenizer, tmp_path: Path, monkeypatch, capsys
) -> None:
    data = prepared("instruct", [[("say it", words)] for words in WORDS])
    runs = [saved(tmp_path / name, Llama(args), tokenizer).parent for name in ("P-one", "S-two")]
    flags = ("--model", *runs, "--dataset", "instruct", "--data_dir", data.parent)
    script(monkeypatch, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["P-one", "S-two"] and [len(line.split()) for line in lines[1:]] == [3] * 4
    script(monkeypatch, *flags, "--json")
    found = json.loads(capsys.readouterr().out)["models"]
    assert [f"{scores['loss']:.4f}" for scores in found] == lines[1].split()[1:]


def test_what_cannot_be_measured_is_said(
    args, prepared, tokenizer: Tokenizer, tmp_path: Path, monkeypatch, capsys, env: DistributedEnv
) -> None:
    folder = saved(tmp_path / "P", Llama(args), tokenizer)
    with pytest.raises(SystemExit):
        script(monkeypatch, "--model", folder)
    assert "nothing to evaluate" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="pip install lm-eval"):
        script(monkeypatch, "--model", folder, "--lm_eval", "hellaswag")
    data = prepared("instruct", [[("say it", "yes")]])
    meta = json.loads((data / "meta.json").read_text())
    write_json(data / "meta.json", {**meta, "tokenizer": {**meta["tokenizer"], "hash": "other"}})
    with pytest.raises(UserError, match="another tokenizer"):
        evaluation.dataset_scores(Llama(args), tokenizer, None, data, args, env)


@pytest.mark.slow
@torch.no_grad()
def test_lm_evaluation_harness_scores_a_local_task_as_we_do(
    args, tokenizer: Tokenizer, tmp_path: Path, spread
) -> None:
    """A multiple choice, scored from our own log-probs; needs pip install lm-eval."""
    pytest.importorskip("lm_eval")
    torch.manual_seed(0)
    model = spread(Llama(args)).eval()
    folder = saved(tmp_path / "P", model, tokenizer)
    rows = [
        {"prompt": f"{words} and", "choices": WORDS, "label": n % len(WORDS)}
        for n, words in enumerate(WORDS * 4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "choice.yaml").write_text(f"""
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: label
""")
    right = []
    for row in rows:
        start, scores = tokenizer.encode(row["prompt"]), []
        for choice in row["choices"]:
            rest = tokenizer.encode(" " + choice)
            found = model(torch.tensor([start + rest]))[0, len(start) - 1 : -1].log_softmax(-1)
            scores.append(found.gather(1, torch.tensor(rest)[:, None]).sum().item())
        right.append(int(np.argmax(scores)) == row["label"])
    found = evaluation.lm_eval_scores(folder, str(tmp_path / "choice.yaml"), torch.device("cpu"))
    assert found["choice/acc"] == pytest.approx(np.mean(right)) and 0 < np.mean(right) < 1
