"""--dataset A:0.7,B:0.3: what is read from it, what is refused, what names the run and its data."""

import json
from pathlib import Path

import pytest
from toy import metrics, toy_dataset, trainer

from runtime.errors import UserError
from training.mixture import parse_shares, read_mixture
from training.settings import choose_stage_and_data


def test_shares_are_read() -> None:
    assert parse_shares("a") == {"a": None}
    assert parse_shares("a,b") == {"a": None, "b": None}
    assert parse_shares("a:0.7, b:3") == {"a": 0.7, "b": 3.0}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("a:0.7,b", "b needs a share too"),
        ("a:x,b:1", "the share 'x' of a must be a number above 0"),
        ("a:0,b:1", "above 0"),
        ("a:nan,b:1", "above 0"),
        ("a:inf,b:1", "above 0"),
        ("a,a", "name each dataset once"),
        ("a,", "name each dataset once"),
    ],
)
def test_wrong_shares_are_refused(dataset: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_shares(dataset)


def test_a_mixture_names_its_data(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        toy_dataset(tmp_path, name, 40 + seed)
    mixture = read_mixture(tmp_path, "a:0.7,b:0.3")
    assert mixture.name == "a:0.7,b:0.3" and mixture.run_name == "a+b"
    assert mixture.kind_of == {"a": "text", "b": "text"}
    hashes = {
        read_mixture(tmp_path, names).hash() for names in ("a", "b", "a,b", "a:0.7,b:0.3", "a:0.6,b:0.4")
    }
    assert len(hashes) == 5


def test_text_may_be_replayed_in_fine_tuning_only(tmp_path: Path) -> None:
    for name, kind in (("book", "text"), ("talks", "instruct"), ("pairs", "preference")):
        toy_dataset(tmp_path / "data", name, 40, kind)

    def stage_of(train: str, dataset: str) -> str:
        return choose_stage_and_data({"train": train, "dataset": dataset, "data_dir": tmp_path / "data"})[0]

    assert stage_of("S", "talks:0.9,book:0.1") == stage_of("P", "book,talks") == "S"
    assert stage_of("P", "book") == "P"
    for train, dataset in (("S", "talks,pairs"), ("P", "book,pairs"), ("D", "pairs,book"), ("S", "book")):
        with pytest.raises(UserError, match="is of kind"):
            stage_of(train, dataset)


def test_a_pass_over_the_conversations_is_an_epoch(tmp_path: Path) -> None:
    toy_dataset(tmp_path, "book", 400)
    toy_dataset(tmp_path, "talks", 40, "instruct")
    rows = read_mixture(tmp_path, "talks:0.5,book:0.5").rows(32, seed=1)
    talks, book = rows.parts
    assert rows.counts[0] == len(talks) and rows.counts[1] < len(book)


def test_different_tokenizers_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy_dataset(tmp_path, name, 40)
    path = tmp_path / "b" / "meta.json"
    meta = json.loads(path.read_text())
    meta["tokenizer"]["hash"] = "another"
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="different tokenizers: prepare b again with data.py --tokenizer"):
        read_mixture(tmp_path, "a,b")


def test_a_mixture_resumes_exactly_and_on_other_ranks(tmp_path: Path) -> None:
    for name, sentences in (("a", 400), ("b", 60)):
        toy_dataset(tmp_path / "data", name, sentences)
    mixture = {"dataset": "a:0.6,b:0.4", "batch_size": 4, "dropout": 0.0, "attn_dropout": 0.0}

    whole = trainer(tmp_path, run_name="whole", total_iters=6, **mixture)
    assert "b is 40% of the tokens and seen" in whole.stdout
    for ranks in (1, 2):
        name = f"parts{ranks}"
        trainer(tmp_path, run_name=name, total_iters=3, lr_decay_iters=6, **mixture)
        trainer(tmp_path, "--resume", run_name=name, total_iters=6, ranks=ranks, **mixture)
        losses = [[row["loss"] for row in metrics(tmp_path / "runs" / run)] for run in ("whole", name)]
        assert losses[0] == pytest.approx(losses[1], rel=0 if ranks == 1 else 1e-4)
