"""Settings that fit the data and the weights of a run, or the words for what does not fit."""

from pathlib import Path

from checkpoint import ARCHITECTURE, load_args
from config import ModelArgs, round_up
from dataprep.shards import read_meta
from runtime.errors import UserError
from tokenizer import Tokenizer, has_tokenizer, load_tokenizer

# Taken in this order where --dataset is not given.
DEFAULT_DATASETS = {
    "text": ("fw", "tinystories", "stories"),
    "instruct": ("alpaca", "stories_instruct"),
    "preference": ("dpo", "stories_preference"),
}


def choose_dataset(args: ModelArgs, kind: str) -> Path:
    """The folder of --dataset, or of the first prepared one of the stage's kind. Raises UserError for a wrong kind."""
    data_dir = Path(args.data_dir)
    if args.dataset:
        meta = read_meta(data_dir / args.dataset)
        if meta["kind"] != kind and (args.train, meta["kind"]) != ("P", "instruct"):
            raise UserError(
                f"--dataset {args.dataset} is of kind {meta['kind']}; --train {args.train} needs {kind}"
            )
        return data_dir / args.dataset
    favourites = DEFAULT_DATASETS[kind]
    prepared = (path.parent for path in data_dir.glob("*/meta.json") if _kind(path.parent) == kind)
    rank = {name: number for number, name in enumerate(favourites)}
    return min(
        prepared,
        key=lambda folder: (rank.get(folder.name, len(rank)), folder.name),
        default=data_dir / favourites[-1],
    )


def _kind(folder: Path) -> str | None:
    """The kind of a prepared dataset; None of a broken one, which nobody has asked for."""
    try:
        return read_meta(folder)["kind"]
    except UserError:
        return None


def resolve_vocab_size(args: ModelArgs, tokenizer: Tokenizer) -> ModelArgs:
    """vocab_size follows the tokenizer unless it is given. Raises UserError when it is too small."""
    if args.explicit["vocab_size"] is None:
        return args.replace(vocab_size=round_up(tokenizer.vocab_size, 64))
    if args.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"--vocab_size {args.vocab_size} is smaller than the {tokenizer.vocab_size} tokens of the data"
        )
    return args


def adopt_architecture(source: Path, args: ModelArgs, typed: dict, tokenizer: Tokenizer) -> ModelArgs:
    """Settings that fit the weights in a folder. Raises UserError where a typed one or the tokenizer does not."""
    theirs = load_args(source)
    free = (
        None if args.resume else "block_size"
    )  # rotary positions have no weights: a new run may choose its context
    fixed = [name for name in ARCHITECTURE if name != free or name not in typed]
    wrong = [
        f"--{name} {typed[name]} (there {getattr(theirs, name)})"
        for name in fixed
        if name in typed and typed[name] != getattr(theirs, name)
    ]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: the model in {source} is another one")
    if has_tokenizer(source) and load_tokenizer(source).hash != tokenizer.hash:
        raise UserError(
            f"the model in {source} has another tokenizer than the data: prepare the data with "
            f"data.py --tokenizer {source}"
        )
    return args.replace(**{name: getattr(theirs, name) for name in fixed})
