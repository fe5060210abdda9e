"""Prepare a dataset: read rows, encode them to token ids on all cores, write shards that the trainer reads.

    python data.py --stories                         the built-in story world, offline: texts, instructions, preferences
    python data.py --tinystories | --fw              texts from the Hugging Face hub (FineWeb sample-10BT is streamed)
    python data.py --alpaca | --dpo                  instructions, preferences (UltraFeedback) from the hub
    python data.py --hub OWNER/NAME --kind text | instruct | preference                   any dataset of the hub
    python data.py --files a.txt b.jsonl c.parquet --name mine --kind text | instruct | preference
    python data.py --show NAME [--row N]             print a prepared row, the learned tokens in green, and counts
    python data.py --fw --shard 2/8                  the second eighth of the work, on one of eight machines

The input is cut into units of fixed size. Each unit becomes one shard of each split, whichever process prepares it and
however often it is retried, so the result depends on the input alone. All files are written to data/.<name>.partial,
where a run that was killed is resumed; the folder is renamed to data/<name> when it is complete (dataprep/shards.py
has the format). --shard writes to data/.<name>.shard-2-of-8; the same command without --shard merges all such folders
beside it and prepares the missing units.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("huggingface_hub", "pyarrow")

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config import ModelArgs, Parser, resolve
from dataprep import trained_tokenizer
from dataprep.existing import stored_source, stored_tokenizer
from dataprep.flag_checks import check_flags
from dataprep.forms import KINDS
from dataprep.inputs import find_inputs, remove_copies
from dataprep.prepare import (
    MachineShare,
    prepare,
    prepare_share,
    start_forkserver,
)
from dataprep.registry import (
    DEFAULT_VAL_FRACTION,
    HUB,
    VAL_FRACTION,
    PrepConfig,
    Source,
    file_source,
    hub_identity,
    hub_source,
    join_units,
    story_sources,
    story_tokenizer,
)
from dataprep.round_trip import check_tokenizer
from dataprep.row_flags import add_row_flags, row_options
from dataprep.sources import HubChoice
from dataprep.turns import RowOptions
from modelfiles.hub_names import is_hub_name
from runtime.errors import UserError, run_cli
from runtime.limits import usable_cores
from runtime.os_errors import in_words
from tokenizer import Tokenizer, load_tokenizer

NAMED = {
    "stories": "the built-in story world: texts, instructions, preferences",
    "tinystories": "TinyStories",
    "fw": "FineWeb sample-10BT",
    "fw_edu": "FineWeb-Edu sample-10BT",
    "climbmix": "ClimbMix, shuffled: the first 12B tokens",
    "shakespeare": "Tiny Shakespeare",
    "alpaca": "Alpaca, cleaned: instructions",
    "smoltalk": "smol-smoltalk: conversations",
    "dpo": "UltraFeedback, binarized: preferences",
}
AS_TYPED = "files val_files show tokenizer template max_tokens num_proc block_size update".split()


@dataclass(frozen=True)
class DataArgs:
    """Command line of this script: one of named, hub, files and show is given."""

    named: str | None
    hub: HubChoice | None
    files: list[str] | None
    val_files: list[str] | None
    show: str | None
    name: str
    kind: str
    tokenizer: str | None
    template: Literal["own", "smolllama"] | None
    val_fraction: float
    rows: RowOptions
    max_tokens: int | None
    num_proc: int
    share: MachineShare | None
    row: int
    split: str
    block_size: int | None
    update: bool
    data_dir: Path
    seed: int


def build_parser() -> Parser:
    """Return the parser of this script's flags."""
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    for name, help_text in NAMED.items():
        which.add_argument(f"--{name}", action="store_const", const=name, dest="named", help=help_text)
    which.add_argument(
        "--files",
        nargs="+",
        metavar="FILE",
        help="files, folders, globs or - (a pipe); .txt .md .jsonl .ndjson .json .parquet .arrow .csv .tsv, each also "
        "with .gz or .zst",
    )
    which.add_argument("--hub", metavar="OWNER/NAME", help="any dataset of the Hugging Face hub")
    which.add_argument(
        "--show",
        metavar="NAME",
        help="print a row of a prepared dataset, the learned tokens in green, and counts",
    )
    parser.add_argument("--row", type=int, help="the row to show, from 1 (default: 1)")
    parser.add_argument(
        "--split", help="the split to show, train or val; with --hub, the one to train on (default: train)"
    )
    parser.add_argument("--block_size", type=int, help="show the row truncated to a context of this length")

    parser.add_argument("--name", help="name of the dataset (default for those of the hub: their flag)")
    parser.add_argument("--kind", choices=KINDS, help="what the rows of --files or --hub are (default: text)")
    _add_hub_flags(parser)
    _add_tokenizer_flags(parser)
    parser.add_argument(
        "--val_files", nargs="+", metavar="FILE", help="validation set; nothing is held out of --files then"
    )
    parser.add_argument(
        "--val_fraction",
        type=float,
        help="share of the tokens held out, 0 for none (default: 0.1; 0.2 for --fw)",
    )
    add_row_flags(parser)
    parser.add_argument("--max_tokens", type=int, help="stop after this many tokens, validation included")
    parser.add_argument(
        "--num_proc",
        type=int,
        default=usable_cores(),
        help="worker processes (default: all cores that this process may use)",
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="prepare the I-th of N shares of the dataset on this machine"
    )
    parser.add_argument(
        "--update", action="store_true", help="replace a dataset of this name that has other settings"
    )
    parser.add_settings({"data"})
    return parser


def _add_tokenizer_flags(parser: Parser) -> None:
    """Add the flags that decide what tokens a text or a conversation becomes."""
    parser.add_argument(
        "--tokenizer",
        help="gpt2, bytes, bpe or bpe:SIZE (trained on this corpus), a folder with a tokenizer, or OWNER/NAME of a "
        "model on the hub (default: gpt2; for --stories, one trained on them)",
    )
    parser.add_argument(
        "--template",
        choices=("own", "smolllama"),
        help="how conversations are rendered: own, the chat template in the tokenizer's folder (default where it has "
        "one); smolllama, the headings of SmolLlama",
    )


def _add_hub_flags(parser: Parser) -> None:
    """Add the flags that go with --hub."""
    parser.add_argument("--hub_config", help="config of the dataset on the hub, where it has several")
    parser.add_argument(
        "--val_split", help="split of --hub to validate on; nothing is held out of --split then"
    )
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: the newest commit)")


def parse() -> DataArgs:
    """Return the checked command line of this script; a wrong one exits with code 2."""
    parser = build_parser()
    args = parser.parse_args()
    name = args.name or args.named or args.show or (args.hub or "").rpartition("/")[2]
    check_flags(parser, args, name)

    val_fraction = args.val_fraction
    if val_fraction is None:
        val_fraction = VAL_FRACTION.get(args.named, DEFAULT_VAL_FRACTION)
    if not 0 <= val_fraction < 1:
        parser.error(f"--val_fraction {val_fraction} must be 0 or more and below 1")

    settings = resolve({flag: value for flag, value in vars(args).items() if value is not None})
    return DataArgs(
        named=args.named,
        hub=_hub_choice(args),
        name=name,
        kind=args.kind or "text",
        val_fraction=val_fraction,
        rows=row_options(parser, args),
        share=_parse_share(parser, args),
        row=args.row or 1,
        split=args.split or "train",
        data_dir=Path(settings.data_dir),
        seed=settings.seed,
        **{flag: getattr(args, flag) for flag in AS_TYPED},
    )


def _hub_choice(args: argparse.Namespace) -> HubChoice | None:
    """Return the dataset that --hub and its flags name, if they are given."""
    if not args.hub:
        return None
    return HubChoice(args.hub, args.hub_config, args.split or "train", args.val_split, args.revision)


def _parse_share(parser: Parser, args: argparse.Namespace) -> MachineShare | None:
    """Return the share of --shard I/N, if it is given; a wrong one exits with code 2."""
    if not args.shard:
        return None
    numbers = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", args.shard)
    if not numbers or int(numbers[1]) > int(numbers[2]):
        parser.error(f"--shard {args.shard} must be like 2/8: the second of eight")
    if args.max_tokens:
        parser.error("--max_tokens counts over the entire dataset, so it does not go with --shard")
    return MachineShare(int(numbers[1]), int(numbers[2]))


def find_sources(args: DataArgs) -> list[Source]:
    """Return the datasets that the flags name."""
    if args.named == "stories":
        return story_sources(args.seed)
    if args.files:
        inputs, val_inputs = (
            find_inputs(paths or [], args.kind, args.data_dir / f".{args.name}.{flag}")
            for flag, paths in (("files", args.files), ("val_files", args.val_files))
        )
        return [file_source(args.name, args.kind, inputs, val_inputs)]
    dataset = args.hub or HUB[args.named]
    kind = args.kind if args.hub else dataset.kind
    stored = stored_source(args.data_dir, args.name, hub_identity(dataset), kind, args.update)
    return [stored or hub_source(args.name, kind, dataset)]


def folder_of_tokenizer(name: str) -> str | Path:
    """Return the name of a tokenizer, or the folder of a model OWNER/NAME of the hub, which is downloaded once."""
    models_dir = ModelArgs.save_checkpoint_dir
    if not is_hub_name(name, models_dir):
        return name
    from checkpoint import find_or_download  # loads torch, which nothing else here needs

    return find_or_download(name, models_dir)


def find_tokenizer(args: DataArgs, sources: list[Source]) -> tuple[Tokenizer, dict]:
    """Return the tokenizer that the flags name, and its entry in meta.json."""
    if args.named == "stories" and not args.tokenizer:
        name = "stories"
        tokenizer = story_tokenizer(args.seed)
    elif trained_tokenizer.is_trained(args.tokenizer):
        (source,) = sources
        name = args.tokenizer
        tokenizer = stored_tokenizer(args.data_dir, source, name)
        if tokenizer is None:
            tokenizer = trained_tokenizer.train(
                name, source.ranges, source.kind, args.val_fraction, args.rows
            )
    else:
        name = args.tokenizer or "gpt2"
        tokenizer = load_tokenizer(folder_of_tokenizer(name))
        for source in sources:
            check_tokenizer(tokenizer, name, source, args.rows)
    tokenizer = tokenizer.with_template(args.template, name)
    if any(source.kind != "text" for source in sources):
        tokenizer.check_template()
    entry = {
        "name": name,
        "hash": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
    }
    return tokenizer, entry


def prepare_all(args: DataArgs) -> None:
    """Prepare the datasets that the flags name, or this machine's share of each."""
    try:
        prepare_sources(args, find_sources(args))
    finally:
        for flag in ("files", "val_files"):
            remove_copies(args.data_dir / f".{args.name}.{flag}")


def prepare_sources(args: DataArgs, sources: list[Source]) -> None:
    """Prepare datasets, or this machine's share of each."""
    tokenizer, tokenizer_entry = find_tokenizer(args, sources)
    for source in sources:
        ranges = [each for each in source.ranges if each.split != "val" or args.val_fraction]
        config = PrepConfig(
            kind=source.kind,
            chat_template=tokenizer.chat_template,
            tokenizer=tokenizer_entry,
            provenance=source.provenance,
            val_fraction=args.val_fraction,
            max_tokens=args.max_tokens,
            units=join_units(ranges),
            rows=args.rows,
        )
        if args.share:
            prepare_share(
                args.data_dir, source.name, config, tokenizer, args.num_proc, args.share, args.update
            )
        else:
            prepare(args.data_dir, source.name, config, tokenizer, args.num_proc, args.update)


def main() -> None:
    """Prepare the datasets that the flags name, or show a row of one."""
    t0 = time.perf_counter()
    args = parse()
    if args.show:
        # It needs torch, which would double the start and memory of every worker.
        from dataloader.preview import show

        print(show(args.data_dir / args.show, args.split, args.row, args.block_size))
        return

    start_forkserver()
    try:
        args.data_dir.mkdir(parents=True, exist_ok=True)
        prepare_all(args)
    except BrokenPipeError:
        raise
    except OSError as error:  # of writing: those of reading are UserErrors
        raise UserError(
            f"cannot write to {in_words(error, args.data_dir)}, or choose another --data_dir; finished units are kept"
        ) from None
    print(f"{time.perf_counter() - t0:.1f} s")


if __name__ == "__main__":
    run_cli(main)
