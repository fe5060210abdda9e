"""Prepare a dataset: read rows, make token ids with all cores, write shards that the trainer reads.

    python data.py --stories                         the built-in story world, offline: texts, instructions, preferences
    python data.py --tinystories | --fw              texts from the Hugging Face hub (FineWeb sample-10BT is streamed)
    python data.py --alpaca | --dpo                  instructions, preferences (UltraFeedback) from the hub
    python data.py --files a.txt b.jsonl c.parquet --name mine --kind text | instruct | preference
    python data.py --show NAME [--row N]             print a prepared row, what is learned in green
    python data.py --fw --shard 2/8                  the second eighth of the work, on one of eight machines

The input is cut into units of fixed size. Each unit becomes one shard, whichever process makes it and however often
it is tried, so the result depends on the input alone. Everything is made in data/.<name>.partial, where a run that
was killed goes on, and takes its place under data/<name> when it is complete (dataprep/shards.py has the format).
What --shard makes stays in data/.<name>.shard-2-of-8; the same command without --shard takes in all such folders that
lie beside it, as they are, and makes what is missing.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from tqdm import tqdm

from config import Parser, resolve
from dataprep.conversations import COLUMNS
from dataprep.registry import (
    VAL_FRACTION,
    Source,
    file_source,
    hub_source,
    story_sources,
    story_tokenizer,
    unit_bytes,
)
from dataprep.shards import (
    FORMAT,
    SPLITS,
    TokenDataset,
    check_replaceable,
    id_dtype,
    read_meta,
    split_validation,
    verify_dataset,
)
from dataprep.sources import Span
from dataprep.worker import prepare_unit, start_worker
from runtime.checksums import write_checksums
from runtime.errors import UserError, run_cli
from runtime.files import commit_folder, folder_lock, write_json
from tokenizer import CHAT_TEMPLATE, Tokenizer, load_tokenizer

WORKERS = multiprocessing.get_context("forkserver")
BYTES_PER_TOKEN = 8  # at most, about: a unit has at least its bytes / 8 tokens


@dataclass(frozen=True)
class Plan:
    """All that determines a prepared dataset. Two runs with equal plans make equal files."""

    kind: str
    template: str
    tokenizer: dict
    source: dict
    val_fraction: float
    max_tokens: int | None
    units: list[list[dict]]


@dataclass(frozen=True)
class Shard:
    """Which machine of how many, counted from 1."""

    number: int
    count: int

    def has(self, unit: int) -> bool:
        """Whether a unit is this machine's to make."""
        return unit % self.count == self.number - 1


def plan_units(spans: list[Span], target: int) -> list[list[dict]]:
    """Join small neighbouring spans of the same split into units of about the target size."""
    units: list[list[Span]] = []
    for span in spans:
        last = units[-1] if units else None
        if last and last[0].split == span.split and sum(s.bytes for s in last) + span.bytes <= target:
            last.append(span)
        else:
            units.append([span])
    return [[asdict(span) for span in unit] for unit in units]


# --- all units, in order ---------------------------------------------------------------------------------------------


def prepare_shard(
    data_dir: Path, name: str, plan: Plan, tokenizer: Tokenizer, workers: int, shard: Shard
) -> None:
    """Make every count-th unit of the plan, for prepare() to take in."""
    folder = data_dir / f".{name}.shard-{shard.number}-of-{shard.count}"
    wanted = json.loads(json.dumps(asdict(plan)))
    folder.mkdir(exist_ok=True)
    with folder_lock(folder):
        if _planned(folder) != wanted:
            start_over(folder, wanted, tokenizer)
        entries = run_units(folder, wanted, tokenizer, workers, shard)
    print(
        f"{folder}: done, {len(entries)} of {len(plan.units)} units, {sum(map(_tokens, entries)):,} tokens; bring "
        f"all {shard.count} into one {data_dir.name}/ and run the same command there without --shard"
    )


def merge_machine_shares(folder: Path, data_dir: Path, name: str, plan: dict) -> None:
    """Move the units of finished shards into the folder; a kill in between is made good by the next run.

    Raises UserError for a shard of another plan.
    """
    form = re.compile(re.escape(f".{name}.shard-") + r"\d+-of-\d+")
    for shard in sorted(path for path in data_dir.iterdir() if form.fullmatch(path.name)):
        with folder_lock(shard):
            if _planned(shard) != plan:
                raise UserError(
                    f"{shard} was made by another plan (other sources, revision, tokenizer or settings, or "
                    "files of another path or time): make it again, or remove it"
                )
            for entry in sorted(shard.glob("unit-*.json")):
                made = json.loads(entry.read_text())["shards"].values()
                for file in (shard / file for part in made for file in part["sha256"]):
                    if file.is_file():
                        file.rename(folder / file.name)
                entry.rename(folder / entry.name)
            shutil.rmtree(shard)


def prepare(data_dir: Path, name: str, plan: Plan, tokenizer: Tokenizer, workers: int) -> Path:
    """Make data/<name> by the plan, going on where an equal plan was broken off. Returns the folder."""
    target, folder = data_dir / name, data_dir / f".{name}.partial"
    check_replaceable(target, [file["path"] for file in plan.source.get("files", ())])
    wanted = json.loads(json.dumps(asdict(plan)))
    if _is_whole(target, wanted):
        print(f"{target} is already prepared")
        return target
    folder.mkdir(exist_ok=True)
    with folder_lock(folder):
        if _planned(folder) != wanted:
            start_over(folder, wanted, tokenizer)
        merge_machine_shares(folder, data_dir, name, wanted)
        if not (folder / "meta.json").is_file():
            entries = run_units(folder, wanted, tokenizer, workers, Shard(1, 1))
            write_json(folder / "meta.json", make_meta(folder, name, wanted, entries, tokenizer))
        meta = read_meta(folder)
        whole = {
            name: digest
            for split in SPLITS
            for entry in meta["splits"][split]
            for name, digest in entry["sha256"].items()
        }
        for path in folder.iterdir():
            if path.is_file() and path.name not in {"meta.json", "plan.json", *whole}:
                path.unlink()
        write_checksums(folder, whole)
        commit_folder(folder, target)
    noun = {"text": "documents", "instruct": "conversations", "preference": "answers"}[plan.kind]
    for split in SPLITS:
        documents, tokens, size = (
            sum(shard[key] for shard in meta["splits"][split]) for key in ("documents", "tokens", "bytes")
        )
        print(f"{split}: {documents:,} {noun}, {tokens:,} tokens, {size / 1e6:,.1f} MB of text")
    print(
        f"{target}: done"
        + (f"; {meta['empty']:,} rows with nothing to learn left out" if meta["empty"] else "")
    )
    return target


def _planned(folder: Path) -> dict | None:
    """The plan by which a folder is made, if it has one."""
    try:
        return json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or one that was damaged: the same remedy
        return None


def _is_whole(target: Path, plan: dict) -> bool:
    """Whether a dataset was prepared by this plan and its files are there."""
    if not (target / "meta.json").is_file() or _planned(target) != plan:
        return False
    try:
        verify_dataset(target)
        meta = read_meta(target)
        return all(TokenDataset(target, split, meta) for split in SPLITS)
    except UserError as error:
        print(error)
        return False


def start_over(folder: Path, plan: dict, tokenizer: Tokenizer) -> None:
    """Empty a folder of what another plan left, the plan first, and begin."""
    (folder / "plan.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    write_json(folder / "plan.json", plan)


def make_meta(folder: Path, name: str, plan: dict, entries: list[dict], tokenizer: Tokenizer) -> dict:
    """meta.json of the shards made; documents are held out where none was. Raises UserError for too little text."""
    shards = {
        split: [entry["shards"][split] for entry in entries if entry["shards"][split]["tokens"]]
        for split in SPLITS
    }
    if bool(shards["train"]) != bool(shards["val"]):
        shards = split_validation(
            folder,
            shards["train"] or shards["val"],
            plan["kind"],
            plan["val_fraction"],
            id_dtype(plan["tokenizer"]["vocab_size"]),
            len(plan["units"]),
            tokenizer.text_bytes,
        )
    train, val = (sum(shard["tokens"] for shard in shards[split]) for split in SPLITS)
    if min(train, val) < 2:
        raise UserError(
            f"{name}: too little text: {train:,} tokens to train on and {val:,} held out; "
            "give more text, or another --val_fraction or --max_tokens"
        )
    return {
        "format": FORMAT,
        "name": name,
        "kind": plan["kind"],
        "tokenizer": plan["tokenizer"],
        "source": plan["source"],
        "empty": sum(entry["empty"] for entry in entries),
        "splits": shards,
    }


def run_units(folder: Path, plan: dict, tokenizer: Tokenizer, workers: int, shard: Shard) -> list[dict]:
    """The entries of a shard's units in order, made by worker processes; those already there are taken as they are."""
    units, left, entries = plan["units"], plan["max_tokens"], {}
    counter = WORKERS.Value("q", 0)
    total_bytes = sum(span["bytes"] for unit in units for span in unit)
    with (
        ProcessPoolExecutor(
            max(1, min(workers, len(units))), WORKERS, start_worker, (folder, plan, tokenizer, counter)
        ) as pool,
        tqdm(
            total=left, unit=" tokens", unit_scale=True, desc=f"{total_bytes / 1e6:,.0f} MB", disable=None
        ) as bar,
    ):

        def tick() -> None:
            bar.update(counter.value - bar.n)

        try:
            for split in (
                None,
                "val",
                "train",
            ):  # validation takes its share where it has units, training the rest
                numbers = [n for n, unit in enumerate(units) if unit[0]["split"] == split and shard.has(n)]
                budget = max(1, round(left * plan["val_fraction"])) if left and split == "val" else left
                made = _run_group(folder, pool, plan, numbers, budget, workers, tick)
                left = left if left is None else left - sum(map(_tokens, made.values()))
                entries |= made
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?): run the same command again to go on, "
                "perhaps with a smaller --num_proc"
            ) from None
        finally:  # what they are at is not wanted any more
            for worker in multiprocessing.active_children():
                worker.kill()
        bar.update(sum(map(_tokens, entries.values())) - bar.n)
    return [entries[number] for number in sorted(entries)]


def _run_group(
    folder: Path,
    pool: ProcessPoolExecutor,
    plan: dict,
    numbers: list[int],
    budget: int | None,
    workers: int,
    tick: Callable[[], object],
) -> dict[int, dict]:
    """Units in order until the budget is reached; the unit that crosses it is made again with just what is left."""
    running: dict[int, Future] = {}
    entries: dict[int, dict] = {}
    left = budget
    for position, number in enumerate(numbers):
        if left == 0:
            break
        expected = 0
        for upcoming in numbers[position : position + workers + 1]:
            if left is not None and expected >= left:
                break
            if upcoming not in running and not _kept(folder, upcoming):
                running[upcoming] = pool.submit(prepare_unit, upcoming, budget)
            expected += sum(span["bytes"] for span in plan["units"][upcoming]) // BYTES_PER_TOKEN
        entry = _kept(folder, number) or _wait(running[number], tick)
        if left is not None and _tokens(entry) > left:
            entries[number] = _wait(pool.submit(prepare_unit, number, left), tick)
            break
        entries[number] = entry
        left = 0 if entry["full"] else left if left is None else left - _tokens(entry)
    for future in running.values():
        future.cancel()
    return entries


def _tokens(entry: dict) -> int:
    return sum(shard["tokens"] for shard in entry["shards"].values())


def _kept(folder: Path, number: int) -> dict | None:
    """The entry of a unit that is made already, in this run or in an earlier one by the same plan."""
    path = folder / f"unit-{number:05d}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def start_forkserver() -> None:
    """Start the process that workers are copied from, so that modules are loaded once, and while this one is busy.

    It and they ignore Ctrl-C: the main process ends them. What it imports is ours, whatever the current folder holds.
    """
    handler, before = signal.signal(signal.SIGINT, signal.SIG_IGN), dict(os.environ)
    here = str(Path(__file__).resolve().parent)
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    try:
        WORKERS.set_forkserver_preload(["dataprep.worker"])
        ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
        os.environ.clear()
        os.environ |= before


def _wait(future: Future, tick: Callable[[], object]) -> dict:
    while not wait([future], timeout=0.2).done:
        tick()
    return future.result()


# --- the command line ------------------------------------------------------------------------------------------------


def parse() -> dict:
    """The command line of this script."""
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("stories", "the built-in story world: texts, instructions, preferences"),
        ("tinystories", "TinyStories"),
        ("fw", "FineWeb sample-10BT"),
        ("alpaca", "Alpaca, cleaned: instructions"),
        ("dpo", "UltraFeedback, binarized: preferences"),
    ):
        which.add_argument(f"--{name}", action="store_const", const=name, dest="named", help=what)
    which.add_argument("--files", nargs="+", metavar="FILE", help=".txt, .jsonl, .json or .parquet files")
    which.add_argument(
        "--show", metavar="NAME", help="print a row of a prepared dataset, what is learned in green"
    )
    parser.add_argument("--row", type=int, default=1, help="the row to show, from 1 (default: 1)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="the split to show (default: train)")
    parser.add_argument(
        "--block_size", type=int, help="show what a context of so many tokens leaves of the row"
    )
    parser.add_argument("--name", help="name of the dataset made from --files")
    parser.add_argument("--kind", choices=list(COLUMNS), help="what the rows of --files are (default: text)")
    parser.add_argument(
        "--tokenizer",
        help="gpt2, bytes, or a folder with a tokenizer (default: gpt2; for --stories, one trained on them)",
    )
    parser.add_argument(
        "--val_fraction", type=float, help="share of documents held out (default: 0.1; 0.2 for --fw)"
    )
    parser.add_argument("--max_tokens", type=int, help="stop after so many tokens, validation included")
    parser.add_argument(
        "--num_proc", type=int, default=os.cpu_count(), help="worker processes (default: all cores)"
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="make the I-th of N shares of the dataset on this machine"
    )
    parser.add_settings({"data"})
    args = vars(parser.parse_args())
    name = args["named"] or args["name"] or args["show"]
    if not name:
        parser.error("--files needs --name NAME")
    for flag in ("name", "kind"):
        if args[flag] and not args["files"]:
            parser.error(f"--{flag} goes with --files")
    if Path(name).name != name or name.startswith("."):
        parser.error(f"--name {name} must be a plain folder name")
    if args["val_fraction"] is None:
        args["val_fraction"] = VAL_FRACTION.get(name, 0.1)
    if not 0 < args["val_fraction"] < 1:
        parser.error(f"--val_fraction {args['val_fraction']} must lie between 0 and 1")
    for flag in ("max_tokens", "num_proc", "row", "block_size"):
        if args[flag] is not None and args[flag] < 1:
            parser.error(f"--{flag} {args[flag]} must be 1 or more")
    if args["shard"]:
        numbers = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", args["shard"])
        if not numbers or int(numbers[1]) > int(numbers[2]):
            parser.error(f"--shard {args['shard']} must be like 2/8: the second of eight")
        if args["max_tokens"]:
            parser.error("--max_tokens counts over the whole dataset, so it does not go with --shard")
        args["shard"] = Shard(int(numbers[1]), int(numbers[2]))
    return {**args, "name": name}


def find_sources(args: dict, data_dir: Path, seed: int) -> list[Source]:
    """The datasets that the flags name."""
    if args["named"] == "stories":
        return story_sources(seed)
    if args["files"]:
        return [file_source(args["name"], args["kind"] or "text", args["files"])]
    begun = (plan for folder in data_dir.glob(f".{args['name']}.*") if (plan := _planned(folder)))
    return [hub_source(args["named"], next((plan["source"].get("revision") for plan in begun), None))]


def main() -> None:
    """Prepare the datasets that the flags name, or show a row of one."""
    args, t0 = parse(), time.perf_counter()
    settings = resolve({name: value for name, value in args.items() if value is not None})
    data_dir = Path(settings.data_dir)
    if args["show"]:
        from dataloader.preview import (
            show,  # it needs torch, which would double the start and memory of every worker
        )

        print(show(data_dir / args["show"], args["split"], args["row"], args["block_size"]))
        return
    start_forkserver()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        found = find_sources(args, data_dir, settings.seed)
        trained = args["named"] == "stories" and not args["tokenizer"]
        tokenizer = story_tokenizer(settings.seed) if trained else load_tokenizer(args["tokenizer"] or "gpt2")
        described = {
            "name": "stories" if trained else args["tokenizer"] or "gpt2",
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
        }
        for source in found:
            units = plan_units(source.spans, unit_bytes(sum(span.bytes for span in source.spans)))
            plan = Plan(
                source.kind,
                CHAT_TEMPLATE,
                described,
                source.described,
                args["val_fraction"],
                args["max_tokens"],
                units,
            )
            if args["shard"]:
                prepare_shard(data_dir, source.name, plan, tokenizer, args["num_proc"], args["shard"])
            else:
                prepare(data_dir, source.name, plan, tokenizer, args["num_proc"])
    except OSError as error:  # of reading, all are said already
        raise UserError(
            f"cannot write to {data_dir} ({error.strerror or error}): make room there, or choose another "
            "--data_dir; what is done so far is kept"
        ) from None
    print(f"{time.perf_counter() - t0:.1f} s")


if __name__ == "__main__":
    run_cli(main)
