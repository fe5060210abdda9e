"""Prepare a dataset: read rows, make token ids with all cores, write shards that the trainer reads.

    python data.py --stories                         the built-in story world, offline
    python data.py --tinystories | --fw              from the Hugging Face hub (FineWeb sample-10BT is streamed)
    python data.py --files a.txt b.jsonl c.parquet --name mine --kind text

The input is cut into units of fixed size. Each unit becomes one shard, whichever process makes it and however often it
is tried, so the result depends on the input alone. Everything is made in data/.<name>.partial, where a run that was
killed goes on, and takes its place under data/<name> when it is complete (store.py has the format).
"""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import story_world
from config import Parser, UserError, resolve, run
from sources import NETWORK_ERRORS, HubDataset, Span, hub_spans, in_validation, local_spans, retrying, text_documents
from store import FORMAT, SPLITS, ShardWriter, id_dtype, read_meta, replace_folder, write_json
from tokenizer import Tokenizer, load_tokenizer, train_bpe

HUB = {
    "fw": HubDataset("HuggingFaceFW/fineweb", {None: "sample/10BT/*.parquet"}),
    "tinystories": HubDataset("roneneldan/TinyStories", {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"}),
}
VAL_FRACTION = {"fw": 0.2}  # of the documents, where a dataset has no split of its own; 0.1 elsewhere
STORIES = {"train": 60_000, "val": 2_000}
STORY_VOCABULARY = 2048


@dataclass(frozen=True)
class Plan:
    """All that determines a prepared dataset. Two runs with equal plans make equal files."""

    kind: str
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


def unit_bytes(total: int) -> int:
    """Size of a unit: about a hundredth of the input, from 1 to 32 MB."""
    return min(max(total // 100, 1 << 20), 32 << 20)


# --- one unit, in a worker process -----------------------------------------------------------------------------------

_worker: dict = {}  # what a worker process keeps between units: tokenizer, folder, plan, counter


def _start_worker(tokenizer_folder: str, folder: str, plan: dict, counter) -> None:
    _worker.update(tokenizer=load_tokenizer(tokenizer_folder), folder=Path(folder), plan=plan, counter=counter)


def make_unit(index: int, budget: int | None) -> dict:
    """Make the shards of a unit, at most `budget` tokens; tried again when the network stumbles. Returns its entry."""
    spans = [Span(**span) for span in _worker["plan"]["units"][index]]
    remote = any(span.path.startswith("hf://") for span in spans)
    try:
        return retrying(lambda: _make_unit(index, spans, budget), f"unit {index}", tries=6 if remote else 1)
    except NETWORK_ERRORS as error:  # said in words here, since the hub's errors do not travel between processes
        raise UserError(f"unit {index} failed for good ({type(error).__name__}: {error}); what is done so far is kept: "
                        "run the same command again to go on") from None


def _make_unit(index: int, spans: list[Span], budget: int | None) -> dict:
    tokenizer, folder, fraction = _worker["tokenizer"], _worker["folder"], _worker["plan"]["val_fraction"]
    dtype = id_dtype(tokenizer.vocab_size)
    writers = {split: ShardWriter(folder, split, index, dtype, with_keep=False) for split in SPLITS}
    left, empty, uncounted = budget, 0, 0
    for span, text, ended in _documents(spans):
        if not text:
            empty += 1
            continue
        split = span.split or ("val" if span.whole and in_validation(text, fraction) else "train")
        ids = tokenizer.encode_array(text)
        ids = np.append(ids, np.uint32(tokenizer.eos_id)) if ended else ids
        if left is not None and len(ids) >= left:
            ids, ended = ids[:left], ended and len(ids) == left
            text = text if ended else tokenizer.decode(ids)
        writers[split].add(ids, None, len(text.encode()), ended)
        left = left if left is None else left - len(ids)
        uncounted += len(ids)
        if uncounted > 100_000:
            uncounted = _count(uncounted)
        if left == 0:
            break
    _count(uncounted)
    entry = {"budget": budget, "empty": empty, "shards": {split: writer.close() for split, writer in writers.items()}}
    write_json(folder / f"unit-{index:05d}.json", entry)
    return entry


def _documents(spans: list[Span]) -> Iterator[tuple[Span, str, bool]]:
    for span in spans:
        for text, ended in text_documents(span):
            yield span, text, ended


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
    if (target / "meta.json").is_file() and read_meta(target).get("plan") == wanted:
        print(f"{target} is already prepared")
        return target
    try:
        if not (folder / "plan.json").is_file() or json.loads((folder / "plan.json").read_text()) != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "tokenizer").mkdir(parents=True)
            tokenizer.save(folder / "tokenizer")
            write_json(folder / "plan.json", wanted)
    except OSError as error:
        raise UserError(f"cannot write to {data_dir}: {error.strerror}; choose another --data_dir") from None
    entries = run_units(folder, wanted, workers)
    shards = {split: [entry["shards"][split] for entry in entries if entry["shards"][split]["tokens"]] for split in SPLITS}
    shards = hold_out_tail(folder, shards, plan.val_fraction, id_dtype(tokenizer.vocab_size), len(plan.units))
    totals = {split: sum(shard["tokens"] for shard in shards[split]) for split in SPLITS}
    if min(totals.values()) < 2:
        raise UserError(f"{name}: too little text for training and validation ({sum(totals.values())} tokens in all)")
    named = {name for split in SPLITS for shard in shards[split] for name in shard["sha256"]}
    # The entries go first: should this be broken off, units without an entry are made again.
    for leftover in [*folder.glob("unit-*.json"), *folder.glob("*.tmp"), *folder.glob("*.bin")]:
        if leftover.name not in named:
            leftover.unlink()
    (folder / "plan.json").unlink()
    write_json(folder / "meta.json", {"format": FORMAT, "name": name, "kind": plan.kind, "tokenizer": plan.tokenizer,
                                      "source": plan.source, "splits": shards, "plan": wanted})
    replace_folder(folder, target)
    empty = sum(entry["empty"] for entry in entries)
    for split in SPLITS:
        documents, size = (sum(shard[key] for shard in shards[split]) for key in ("documents", "bytes"))
        print(f"{split}: {documents:,} documents, {totals[split]:,} tokens, {size / 1e6:,.1f} MB of text")
    print(f"{target}: done" + (f"; {empty} empty rows left out" if empty else ""))
    return target


def run_units(folder: Path, plan: dict, workers: int) -> list[dict]:
    """The entries of all units in order, made by worker processes; those already there are taken as they are."""
    units = plan["units"]
    entries: list[dict] = []
    counter = multiprocessing.get_context("spawn").Value("q", 0)
    total_bytes = sum(span["bytes"] for unit in units for span in unit)
    with ProcessPoolExecutor(max(1, min(workers, len(units))), multiprocessing.get_context("spawn"), _start_worker,
                             (str(folder / "tokenizer"), str(folder), plan, counter)) as pool, \
            tqdm(total=plan["max_tokens"], unit=" tokens", unit_scale=True, desc=f"{total_bytes / 1e6:,.0f} MB") as bar:
        try:
            for split, budget in budgets(plan):
                numbers = [n for n, unit in enumerate(units) if unit[0]["split"] == split]
                entries += _run_group(folder, pool, numbers, budget, workers, lambda: bar.update(counter.value - bar.n))
        except BrokenProcessPool:
            raise UserError("a worker process was killed (out of memory?): run the same command again to go on, "
                            "perhaps with a smaller --num_proc") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        bar.update(sum(shard["tokens"] for entry in entries for shard in entry["shards"].values()) - bar.n)
    return entries


def budgets(plan: dict) -> list[tuple[str | None, int | None]]:
    """(split, tokens at most) of each group of units; validation gets its fraction where it has units of its own."""
    splits = list(dict.fromkeys(unit[0]["split"] for unit in plan["units"]))
    limit = plan["max_tokens"]
    held_out = limit and max(1, round(limit * plan["val_fraction"]))
    share = {None: limit, "val": held_out, "train": limit and limit - held_out}
    return [(split, share[split]) for split in splits]


def _run_group(folder: Path, pool: ProcessPoolExecutor, numbers: list[int], budget: int | None, ahead: int, tick) -> list[dict]:
    """Units in order until the budget is reached; the unit that crosses it is made again with just what is left."""
    running: dict[int, Future] = {}
    entries: list[dict] = []
    left = budget
    for position, number in enumerate(numbers):
        for upcoming in numbers[position:position + ahead + 1]:
            if upcoming not in running and not _kept(folder, upcoming, budget):
                running[upcoming] = pool.submit(make_unit, upcoming, budget)
        entry = _kept(folder, number, budget) or _wait(running.pop(number), tick)
        made = sum(shard["tokens"] for shard in entry["shards"].values())
        if left is not None and made > left:
            entry, made = _wait(pool.submit(make_unit, number, left), tick), left
        entries.append(entry)
        left = left if left is None else left - made
        if left == 0:
            for future in running.values():
                future.cancel()
            wait(running.values())
            break
    return entries


def _kept(folder: Path, number: int, budget: int | None) -> dict | None:
    """The entry of a unit that an earlier run finished under the same budget."""
    path = folder / f"unit-{number:05d}.json"
    entry = json.loads(path.read_text()) if path.is_file() else None
    return entry if entry and entry["budget"] == budget else None


def _wait(future: Future, tick) -> dict:
    while not wait([future], timeout=0.2, return_when=FIRST_COMPLETED).done:
        tick()
    return future.result()


def hold_out_tail(folder: Path, shards: dict[str, list[dict]], fraction: float, dtype: type,
                  free: int) -> dict[str, list[dict]]:
    """Where all documents fell on one side (there are few), the last part of the text becomes the validation set.

    A document may be cut in two there: its head is trained on, its tail is held out. The new shards are numbered from
    `free` on, beside the old ones, so that a kill leaves those whole.
    """
    sides = [split for split in SPLITS if any(shard["tokens"] for shard in shards[split])]
    if len(sides) != 1:
        return shards
    side, total = sides[0], sum(shard["tokens"] for shard in shards[sides[0]])
    cut, made, seen = total - round(total * fraction), {split: [] for split in SPLITS}, 0
    for index, shard in enumerate(shards[side]):
        names = {name.split(".")[1]: name for name in shard["sha256"]}
        tokens, ends = np.fromfile(folder / names["tokens"], dtype), np.fromfile(folder / names["ends"], np.uint64)
        here = min(max(cut - seen, 0), len(tokens))
        seen += len(tokens)
        for split, part, its_ends in (("train", tokens[:here], np.union1d(ends[ends <= here], [here])),
                                      ("val", tokens[here:], ends[ends > here] - np.uint64(here))):
            if not len(part):
                continue
            writer = ShardWriter(folder, split, free + index, dtype, with_keep=False)
            bounds = [0, *its_ends.tolist(), len(part)]
            for a, b in zip(bounds, bounds[1:], strict=False):
                if b > a:
                    writer.add(part[int(a):int(b)], None, 0, ended=b in its_ends)
            made[split].append({**writer.close(), "bytes": round(shard["bytes"] * len(part) / len(tokens))})
    return made


# --- the command line ------------------------------------------------------------------------------------------------

def story_files(data_dir: Path, seed: int) -> dict[str, Path]:
    """The story world as two JSONL files in TinyStories' form, written once."""
    folder = data_dir / "story_world"
    files = {split: folder / f"{split}-{count}-{seed}.jsonl" for split, count in STORIES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in files.items():
        if not path.is_file():
            temporary = path.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as file:
                for row in tqdm(story_world.stories(split, STORIES[split], seed), f"telling {split} stories",
                                STORIES[split], unit=" stories"):
                    file.write(json.dumps(row) + "\n")
            temporary.rename(path)
    return files


def parse() -> tuple[Parser, dict]:
    """The command line of this script."""
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stories", action="store_const", const="stories", dest="named", help="the built-in story world")
    which.add_argument("--tinystories", action="store_const", const="tinystories", dest="named", help="TinyStories")
    which.add_argument("--fw", action="store_const", const="fw", dest="named", help="FineWeb sample-10BT")
    which.add_argument("--files", nargs="+", metavar="FILE", help=".txt, .jsonl, .json or .parquet files")
    parser.add_argument("--name", help="name of the dataset made from --files")
    parser.add_argument("--kind", choices=["text"], default="text", help="what the rows are (default: text)")
    parser.add_argument("--tokenizer", help="gpt2, bytes, or a folder with a tokenizer (default: gpt2; for --stories, "
                                            "one trained on them)")
    parser.add_argument("--val_fraction", type=float, help="share of documents held out (default: 0.1; 0.2 for --fw)")
    parser.add_argument("--max_tokens", type=int, help="stop after so many tokens, validation included")
    parser.add_argument("--num_proc", type=int, default=os.cpu_count(), help="worker processes (default: all cores)")
    parser.add_settings({"data"})
    args = vars(parser.parse_args())
    name = args["named"] or args["name"]
    if args["files"] and not name:
        parser.error("--files needs --name NAME")
    if args["named"] and args["name"]:
        parser.error(f"--name goes with --files; --{name} is called {name}")
    if Path(name).name != name or name.startswith("."):
        parser.error(f"--name {name} must be a plain folder name")
    if args["val_fraction"] is None:
        args["val_fraction"] = VAL_FRACTION.get(name, 0.1)
    if not 0 < args["val_fraction"] < 1:
        parser.error(f"--val_fraction {args['val_fraction']} must lie between 0 and 1")
    for flag in ("max_tokens", "num_proc"):
        if args[flag] is not None and args[flag] < 1:
            parser.error(f"--{flag} {args[flag]} must be 1 or more")
    return parser, {**args, "name": name}


def find_spans(args: dict, data_dir: Path, seed: int) -> tuple[list[Span], dict]:
    """The spans of the dataset that the flags name, and the words for meta.json that say where it is from."""
    if args["named"] == "stories":
        files = story_files(data_dir, seed)
        spans = [Span(**{**asdict(span), "split": split}) for split, path in files.items()
                 for span in local_spans([str(path)], unit_bytes(path.stat().st_size))]
        return spans, {"generator": "story_world.py", "seed": seed, "stories": STORIES}
    if args["files"]:
        sizes = [Path(f).stat().st_size if Path(f).is_file() else 0 for f in args["files"]]
        spans = local_spans(args["files"], unit_bytes(sum(sizes)))
        return spans, {"files": [{"path": f, "bytes": size, "modified": os.stat(f).st_mtime}
                                 for f, size in zip(args["files"], sizes, strict=True)]}
    dataset = HUB[args["named"]]
    spans, revision = hub_spans(dataset, unit_bytes(1 << 32))
    return spans, {"repo": dataset.repo, "revision": revision}


def main() -> None:
    """Prepare the dataset that the flags name."""
    _, args = parse()
    settings = resolve(args)
    data_dir = Path(settings.data_dir)
    t0 = time.perf_counter()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        spans, source = find_spans(args, data_dir, settings.seed)
    except PermissionError as error:
        raise UserError(f"cannot write to {data_dir}: {error.strerror}; choose another --data_dir") from None
    if args["named"] == "stories" and not args["tokenizer"]:
        path = next(span.path for span in spans if span.split == "train")
        lines = Path(path).open(encoding="utf-8")
        tokenizer = train_bpe((json.loads(line)["text"] for line, _ in zip(lines, range(10_000), strict=False)), STORY_VOCABULARY)
    else:
        tokenizer = load_tokenizer(args["tokenizer"] or "gpt2")
    described = {"name": args["tokenizer"] or ("stories" if args["named"] == "stories" else "gpt2"),
                 "hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    units = plan_units(spans, unit_bytes(sum(span.bytes for span in spans)))
    plan = Plan(args["kind"], described, source, args["val_fraction"], args["max_tokens"], units)
    prepare(data_dir, args["name"], plan, tokenizer, args["num_proc"])
    print(f"{time.perf_counter() - t0:.1f} s")


if __name__ == "__main__":
    run(main)
