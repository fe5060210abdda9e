"""Prepare a dataset: read rows, make token ids with all cores, write shards that the trainer reads.

    python data.py --stories                         the built-in story world, offline: texts, instructions, preferences
    python data.py --tinystories | --fw              texts from the Hugging Face hub (FineWeb sample-10BT is streamed)
    python data.py --alpaca | --dpo                  instructions, preferences (UltraFeedback) from the hub
    python data.py --files a.txt b.jsonl c.parquet --name mine --kind text | instruct | preference
    python data.py --show NAME [--row N]             print a prepared row, what is learned in green

The input is cut into units of fixed size. Each unit becomes one shard, whichever process makes it and however often it
is tried, so the result depends on the input alone. Everything is made in data/.<name>.partial, where a run that was
killed goes on, and takes its place under data/<name> when it is complete (store.py has the format).
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from catalog import (
    STORIES,
    VAL_FRACTION,
    Source,
    file_source,
    hub_source,
    story_rows,
    story_sources,
    story_tokenizer,
    unit_bytes,
)
from config import Parser, UserError, resolve, run
from conversations import COLUMNS
from documents import Document, cut, documents, row_documents
from show import show
from sources import READ_ERRORS, Span, brief, in_validation, retry
from store import FORMAT, SPLITS, ShardWriter, Store, claimed, hold_out, id_dtype, read_meta, replace_folder, write_json
from template import CHAT_TEMPLATE
from tokenizer import Tokenizer, load_tokenizer

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


# --- one unit, in a worker process -----------------------------------------------------------------------------------

_worker: dict = {}  # what a worker process keeps between units: tokenizer, folder, plan, counter


def _start_worker(folder: str, plan: dict, counter) -> None:
    threading.Thread(target=_end_with_main, daemon=True).start()
    tokenizer = load_tokenizer(Path(folder) / "tokenizer")
    _worker.update(tokenizer=tokenizer, folder=Path(folder), plan=plan, counter=counter)


def _end_with_main() -> None:
    """A worker that outlived a killed main process would write into the folder of the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def make_unit(index: int, budget: int | None) -> dict:
    """Make the shards of a unit, at most `budget` tokens; tried again when the network stumbles. Returns its entry."""
    spans = [Span(**span) for span in _worker["plan"]["units"][index]]
    remote = any(span.path.startswith("hf://") for span in spans)
    try:
        return retry(lambda: _make_unit(index, spans, budget), f"unit {index}", tries=4 if remote else 1)
    except READ_ERRORS as error:  # said in words here, since the hub's errors do not travel between processes
        raise UserError(f"unit {index} ({spans[0].path}) failed for good ({brief(error)}); what is done so far "
                        "is kept: run the same command again to go on") from None


def _make_unit(index: int, spans: list[Span], budget: int | None) -> dict:
    tokenizer, folder, plan = _worker["tokenizer"], _worker["folder"], _worker["plan"]
    writers = {split: ShardWriter(folder, split, index, id_dtype(tokenizer.vocab_size), plan["kind"] != "text")
               for split in SPLITS}
    left, empty, uncounted, full = budget, 0, 0, False
    for span, document in _documents(spans, plan, tokenizer):
        if document is None:
            empty += 1
            continue
        whole, document = document, document if left is None else cut(document, left, tokenizer)
        if full := document is None:
            break
        split = span.split or ("val" if span.whole and in_validation(document.key, plan["val_fraction"]) else "train")
        for ids, keep, size in document.parts:
            writers[split].add(ids, keep, size, document.ended)
        left = left if left is None else left - document.tokens
        uncounted += document.tokens
        if uncounted > 100_000:
            uncounted = _count(uncounted)
        if left == 0 or document is not whole:
            break
    _count(uncounted)
    entry = {"empty": empty, "full": full, "shards": {split: writer.close() for split, writer in writers.items()}}
    write_json(folder / f"unit-{index:05d}.json", entry)
    return entry


def _documents(spans: list[Span], plan: dict, tokenizer: Tokenizer) -> Iterator[tuple[Span, Document | None]]:
    """The documents of a unit, each with the span that it is from."""
    for span in spans:
        found = (row_documents(story_rows(span, plan["source"]["seed"]), plan["kind"], tokenizer)
                 if span.form in STORIES else documents(span, plan["kind"], tokenizer))
        yield from ((span, document) for document in found)


def _count(tokens: int) -> int:
    """Add to the counter that the progress bar shows; returns what is then uncounted, nothing."""
    with _worker["counter"].get_lock():
        _worker["counter"].value += tokens
    return 0


# --- all units, in order ---------------------------------------------------------------------------------------------

def prepare(data_dir: Path, name: str, plan: Plan, tokenizer: Tokenizer, workers: int) -> Path:
    """Make data/<name> by the plan, going on where an equal plan was broken off. Returns the folder."""
    target, folder = data_dir / name, data_dir / f".{name}.partial"
    wanted = json.loads(json.dumps(asdict(plan)))
    if _is_whole(target, wanted):
        print(f"{target} is already prepared")
        return target
    folder.mkdir(exist_ok=True)
    with claimed(folder):
        if _planned(folder) != wanted:
            start_over(folder, wanted, tokenizer)
        if not (folder / "meta.json").is_file():
            write_json(folder / "meta.json", make_meta(folder, name, wanted, run_units(folder, wanted, workers)))
        meta = read_meta(folder)
        whole = {shard for split in SPLITS for entry in meta["splits"][split] for shard in entry["sha256"]}
        for path in folder.iterdir():
            if path.is_file() and path.name not in {"meta.json", "plan.json", *whole}:
                path.unlink()
        replace_folder(folder, target)
    noun = {"text": "documents", "instruct": "conversations", "preference": "answers"}[plan.kind]
    for split in SPLITS:
        documents, tokens, size = (sum(shard[key] for shard in meta["splits"][split])
                                   for key in ("documents", "tokens", "bytes"))
        print(f"{split}: {documents:,} {noun}, {tokens:,} tokens, {size / 1e6:,.1f} MB of text")
    print(f"{target}: done" + (f"; {meta['empty']:,} rows with nothing to learn left out" if meta["empty"] else ""))
    return target


def _planned(folder: Path) -> dict | None:
    """The plan by which a folder is made, if it has one."""
    path = folder / "plan.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_whole(target: Path, plan: dict) -> bool:
    """Whether a dataset was prepared by this plan and its files are there."""
    if not (target / "meta.json").is_file() or _planned(target) != plan:
        return False
    try:
        meta = read_meta(target)
        return all(Store(target, split, meta) for split in SPLITS)
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


def make_meta(folder: Path, name: str, plan: dict, entries: list[dict]) -> dict:
    """meta.json of the shards made; documents are held out where none was. Raises UserError for too little text."""
    shards = {split: [entry["shards"][split] for entry in entries if entry["shards"][split]["tokens"]]
              for split in SPLITS}
    if bool(shards["train"]) != bool(shards["val"]):
        shards = hold_out(folder, shards["train"] or shards["val"], plan["kind"], plan["val_fraction"],
                          id_dtype(plan["tokenizer"]["vocab_size"]), len(plan["units"]))
    train, val = (sum(shard["tokens"] for shard in shards[split]) for split in SPLITS)
    if min(train, val) < 2:
        raise UserError(f"{name}: too little text: {train:,} tokens to train on and {val:,} held out; "
                        "give more text, or another --val_fraction or --max_tokens")
    return {"format": FORMAT, "name": name, "kind": plan["kind"], "tokenizer": plan["tokenizer"],
            "source": plan["source"], "empty": sum(entry["empty"] for entry in entries), "splits": shards}


def run_units(folder: Path, plan: dict, workers: int) -> list[dict]:
    """The entries of all units in order, made by worker processes; those already there are taken as they are."""
    units, left, entries = plan["units"], plan["max_tokens"], {}
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    total_bytes = sum(span["bytes"] for unit in units for span in unit)
    with ProcessPoolExecutor(max(1, min(workers, len(units))), context, _start_worker,
                             (str(folder), plan, counter)) as pool, \
            tqdm(total=left, unit=" tokens", unit_scale=True, desc=f"{total_bytes / 1e6:,.0f} MB", disable=None) as bar:
        def tick() -> None:
            bar.update(counter.value - bar.n)

        try:
            for split in (None, "val", "train"):  # validation takes its share where it has units, training the rest
                numbers = [n for n, unit in enumerate(units) if unit[0]["split"] == split]
                budget = max(1, round(left * plan["val_fraction"])) if left and split == "val" else left
                made = _run_group(folder, pool, plan, numbers, budget, workers, tick)
                left = left if left is None else left - sum(map(_tokens, made.values()))
                entries |= made
        except BrokenProcessPool:
            raise UserError("a worker process was killed (out of memory?): run the same command again to go on, "
                            "perhaps with a smaller --num_proc") from None
        finally:  # what they are at is not wanted any more
            for worker in multiprocessing.active_children():
                worker.kill()
        bar.update(sum(map(_tokens, entries.values())) - bar.n)
    return [entries[number] for number in sorted(entries)]


def _run_group(folder: Path, pool: ProcessPoolExecutor, plan: dict, numbers: list[int], budget: int | None,
               workers: int, tick: Callable[[], object]) -> dict[int, dict]:
    """Units in order until the budget is reached; the unit that crosses it is made again with just what is left."""
    running: dict[int, Future] = {}
    entries: dict[int, dict] = {}
    left = budget
    for position, number in enumerate(numbers):
        if left == 0:
            break
        expected = 0
        for upcoming in numbers[position:position + workers + 1]:
            if left is not None and expected >= left:
                break
            if upcoming not in running and not _kept(folder, upcoming):
                running[upcoming] = _submit(pool, upcoming, budget)
            expected += sum(span["bytes"] for span in plan["units"][upcoming]) // BYTES_PER_TOKEN
        entry = _kept(folder, number) or _wait(running[number], tick)
        if left is not None and _tokens(entry) > left:
            entries[number] = _wait(_submit(pool, number, left), tick)
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


def _submit(pool: ProcessPoolExecutor, number: int, budget: int | None) -> Future:
    """Start a unit. A worker started here ignores Ctrl-C, also while it imports: the main process ends it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return pool.submit(make_unit, number, budget)
    finally:
        signal.signal(signal.SIGINT, handler)


def _wait(future: Future, tick: Callable[[], object]) -> dict:
    while not wait([future], timeout=0.2).done:
        tick()
    return future.result()


# --- the command line ------------------------------------------------------------------------------------------------

def parse() -> dict:
    """The command line of this script."""
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    for name, what in (("stories", "the built-in story world: texts, instructions, preferences"),
                       ("tinystories", "TinyStories"), ("fw", "FineWeb sample-10BT"),
                       ("alpaca", "Alpaca, cleaned: instructions"), ("dpo", "UltraFeedback, binarized: preferences")):
        which.add_argument(f"--{name}", action="store_const", const=name, dest="named", help=what)
    which.add_argument("--files", nargs="+", metavar="FILE", help=".txt, .jsonl, .json or .parquet files")
    which.add_argument("--show", metavar="NAME", help="print a row of a prepared dataset, what is learned in green")
    parser.add_argument("--row", type=int, default=1, help="the row to show, from 1 (default: 1)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="the split to show (default: train)")
    parser.add_argument("--block_size", type=int, help="show what a context of so many tokens leaves of the row")
    parser.add_argument("--name", help="name of the dataset made from --files")
    parser.add_argument("--kind", choices=list(COLUMNS), help="what the rows of --files are (default: text)")
    parser.add_argument("--tokenizer", help="gpt2, bytes, or a folder with a tokenizer (default: gpt2; for --stories, "
                                            "one trained on them)")
    parser.add_argument("--val_fraction", type=float, help="share of documents held out (default: 0.1; 0.2 for --fw)")
    parser.add_argument("--max_tokens", type=int, help="stop after so many tokens, validation included")
    parser.add_argument("--num_proc", type=int, default=os.cpu_count(), help="worker processes (default: all cores)")
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
    return {**args, "name": name}


def find_sources(args: dict, data_dir: Path, seed: int) -> list[Source]:
    """The datasets that the flags name."""
    if args["named"] == "stories":
        return story_sources(seed)
    if args["files"]:
        return [file_source(args["name"], args["kind"] or "text", args["files"])]
    begun = (_planned(data_dir / f".{args['name']}.partial") or {"source": {}})["source"]
    return [hub_source(args["named"], begun.get("revision"))]


def main() -> None:
    """Prepare the datasets that the flags name, or show a row of one."""
    args, t0 = parse(), time.perf_counter()
    settings = resolve({name: value for name, value in args.items() if value is not None})
    data_dir = Path(settings.data_dir)
    if args["show"]:
        print(show(data_dir / args["show"], args["split"], args["row"], args["block_size"]))
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        found = find_sources(args, data_dir, settings.seed)
        trained = args["named"] == "stories" and not args["tokenizer"]
        tokenizer = story_tokenizer(settings.seed) if trained else load_tokenizer(args["tokenizer"] or "gpt2")
        described = {"name": "stories" if trained else args["tokenizer"] or "gpt2", "hash": tokenizer.hash,
                     "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
        for source in found:
            units = plan_units(source.spans, unit_bytes(sum(span.bytes for span in source.spans)))
            plan = Plan(source.kind, CHAT_TEMPLATE, described, source.described, args["val_fraction"],
                        args["max_tokens"], units)
            prepare(data_dir, source.name, plan, tokenizer, args["num_proc"])
    except OSError as error:  # of reading, all are said already
        raise UserError(f"cannot write to {data_dir} ({error.strerror or error}): make room there, or choose another "
                        "--data_dir; what is done so far is kept") from None
    print(f"{time.perf_counter() - t0:.1f} s")


if __name__ == "__main__":
    run(main)
