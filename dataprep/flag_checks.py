"""Flags of data.py that do not go together, or change nothing beside the others."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from config import MAX_NAME_BYTES
from dataprep import trained_tokenizer
from dataprep.registry import HUB
from dataprep.row_flags import ROW_FLAGS
from dataprep.shards import SPLITS

# flag -> the flags that it goes with
FLAGS_WITH = {
    "kind": ("files", "hub"),
    "val_files": ("files",),
    "hub_config": ("hub",),
    "val_split": ("hub",),
    "revision": ("hub",),
    "split": ("hub", "show"),
    "row": ("show",),
    "block_size": ("show",),
}
# Flags of preparing, which change nothing of a dataset that --show prints.
PREPARING = ("tokenizer", "template", "val_fraction", "max_tokens", "shard", "update")
POSITIVE = ("max_tokens", "num_proc", "row", "block_size")


def check_flags(parser: ArgumentParser, args: Namespace, name: str | None) -> None:
    """Exit with code 2 for flags that do not go together or have a wrong value."""
    if not name:
        parser.error("--files needs --name NAME")
    for flag, others in FLAGS_WITH.items():
        if getattr(args, flag) is not None and not any(getattr(args, other) for other in others):
            parser.error(f"--{flag} goes with --{' or --'.join(others)}")
    if args.show and args.split and args.split not in SPLITS:
        parser.error(f"--split {args.split}: a prepared dataset has {' and '.join(SPLITS)}")
    if Path(name).name != name or name.startswith(".") or name != name.strip():
        flag = "--show" if args.show else "--name"
        typed = name if name == name.strip() else repr(name)
        parser.error(
            f"{flag} {typed} must be a plain folder name, such as {Path(name).name.strip(' .') or 'mine'}; "
            "--data_dir is the folder above it"
        )
    _check_uses(parser, args)
    for flag in POSITIVE:
        value = getattr(args, flag)
        if value is not None and value < 1:
            parser.error(f"--{flag} {value} must be 1 or more")

    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        parser.error(f"--{'show' if args.show else 'name'} is longer than {MAX_NAME_BYTES} bytes")


def _check_uses(parser: ArgumentParser, args: Namespace) -> None:
    """Exit with code 2 for a flag that has no use beside the others."""
    for flag in ROW_FLAGS:
        if getattr(args, flag) and (args.show or args.named == "stories"):
            parser.error(f"--{flag} says how rows of files or of the hub are read: drop it")
    for flag in PREPARING:
        if args.show and getattr(args, flag) is not parser.get_default(flag):
            parser.error(f"--{flag} changes nothing of what --show prints: drop it")
    for flag in ("val_files", "val_split"):
        if getattr(args, flag) and args.val_fraction is not None:
            parser.error(
                f"--{flag} is the validation set, so --val_fraction holds out nothing: drop one of them"
            )

    if args.val_fraction and args.named in HUB and "val" in HUB[args.named].files:
        parser.error(f"--{args.named} brings its own validation set: --val_fraction can only be 0, for none")
    if args.name and (args.show or args.named == "stories"):
        parser.error("--name goes with --files, --hub or one dataset of the hub")
    if args.named == "stories" and trained_tokenizer.is_trained(args.tokenizer):
        parser.error(f"--tokenizer {args.tokenizer} is what --stories does anyway: drop it")
