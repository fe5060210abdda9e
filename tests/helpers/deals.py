"""Deals: a run of six steps and one or two faults of it, drawn by a seed. `play` in deal_runs.py plays them.

A moment is a call of a function of the program, never a time: see deal_hooks.py.
"""

import random
from dataclasses import dataclass, replace

from deal_hooks import ONLY_RANK_0, WRITE

STEPS = 6
ROWS = {"P": (8, 32), "S": (4, 64), "D": (4, 128)}  # rows a step, tokens of a row
# (ranks, optimizer, parallel, micro-batches a step), and how often each is drawn
SHAPES = {
    (1, "adamw", "ddp", 2): 7,
    (1, "muon", "ddp", 1): 7,
    (2, "adamw", "ddp", 1): 2,
    (2, "muon", "ddp", 2): 2,
    (2, "adamw", "fsdp", 2): 1,
    (2, "muon", "fsdp", 1): 1,
    (3, "adamw", "ddp", 1): 1,
}
KINDS = {
    "kill": 20,
    "signal": 14,
    "full disk": 12,
    "damage": 16,
    "not finite": 8,
    "stall": 4,
    "second process": 6,
    "rerun": 3,
    "together": 4,
    "torchrun": 6,
    "other ranks": 7,
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
CHECKPOINT_FILES = (
    *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "SHA256SUMS"),
    *("train_state/optimizer.pt", "train_state/rng.pt", "train_state/state.json", "train_state/SHA256SUMS"),
)
DATA_FILES = (
    "train-00000.tokens.bin",
    "train-00001.ends.bin",
    "val-00000.tokens.bin",
    "meta.json",
    "SHA256SUMS",
)
BEGINS = ("start", "build", "optimizers", "metrics opened")
IN_A_SAVE = ("checkpoint", "model file", "state file", "checksums", "rename", "latest", "best", "prune")
IN_A_RUN = ("step", "batch", "metrics row", "evaluate", "plot", *IN_A_SAVE)


@dataclass(frozen=True)
class Config:
    """What the result of a run depends on; runs of one configuration end bit-identical."""

    stage: str
    ranks: int
    optimizer: str
    parallel: str
    micro_batches: int
    bad_steps: tuple[int, ...] = ()  # whose loss or gradient is not finite
    bad: str = ""

    @property
    def rows(self) -> int:
        """Rows a step: the same on one and two ranks, more on three."""
        rows, _ = ROWS[self.stage]
        return rows * 3 // 2 if self.ranks == 3 else rows

    def settings(self, ranks: int | None = None) -> dict[str, object]:
        """Flags of the run, on this or another number of ranks."""
        ranks = ranks or self.ranks
        names = {"P": "toy", "S": "toy-instruct", "D": "toy-preference"}
        _, tokens = ROWS[self.stage]
        settings = {
            "train": self.stage,
            "dataset": names[self.stage],
            "optimizer": self.optimizer,
            "dropout": 0.1,
            "attn_dropout": 0.1,
            "batch_size": ROWS[self.stage][0],
            "micro_batch_size": self.rows // (ranks * self.micro_batches),
            "total_batch_size": self.rows * tokens,
            "parallel": self.parallel,
            "skip_limit": 2,
        }
        if self.stage == "D":
            settings["max_lr"] = 1e-3
        if self.stage != "P":
            settings["block_size"] = 64
        return settings

    def __str__(self) -> str:
        shape = f"{self.stage}, {self.ranks} ranks of {self.micro_batches}, {self.optimizer}, {self.parallel}"
        return f"{shape}, {self.bad} not finite in steps {self.bad_steps}" if self.bad_steps else shape


@dataclass(frozen=True)
class Fault:
    """A deed at the n-th call of a hook, in one rank or in all (None)."""

    kind: str
    hook: str = ""
    call: int = 1
    rank: int | None = 0
    detail: tuple = ()

    def __str__(self) -> str:
        where = f" at {self.hook} {self.call}" if self.hook else ""
        who = "" if self.rank == 0 else " of all ranks" if self.rank is None else f" of rank {self.rank}"
        return f"{self.kind} {' '.join(map(str, self.detail))}{where}{who}"


@dataclass(frozen=True)
class Deal:
    """A run and its faults, in the order in which they come."""

    seed: int
    kind: str
    config: Config
    save_every: int
    keep: int
    faults: tuple[Fault, ...] = ()
    under_torchrun: bool = False  # then torchrun starts the ranks again, without --resume
    ranks_after: int | None = None  # the run is resumed on so many

    def __str__(self) -> str:
        faults = ", then ".join(map(str, self.faults))
        torchrun = ", under torchrun" if self.under_torchrun else ""
        after = f", resumed on {self.ranks_after} ranks" if self.ranks_after else ""
        return (
            f"deal {self.seed}: {self.config}; saved every {self.save_every}, {self.keep} kept{torchrun}{after}; "
            f"{self.kind}: {faults}"
        )


def draw(seed: int) -> Deal:
    """Return the deal of a seed."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), KINDS.values())[0]
    stage = "D" if kind == "together" else rng.choice("PSD")
    shape = rng.choices(list(SHAPES), SHAPES.values())[0]
    if kind == "not finite":
        shape = rng.choice([(1, "adamw", "ddp", 2), (2, "muon", "ddp", 2)])
    if kind == "other ranks":
        shape = rng.choice([shape for shape in SHAPES if shape[3] == 1 and shape[2] == "ddp"])
    config = Config(stage, *shape)
    save_every = rng.choice([1, 2, 2, 3])
    keep = rng.choice([0, 1, 1, 2, 3])
    deal = Deal(seed, kind, config, save_every, keep)
    return DRAWS[kind](rng, deal)


def _with(deal: Deal, *faults: Fault, **changes: object) -> Deal:
    return replace(deal, faults=faults, **changes)


def _moment(rng: random.Random, deal: Deal, hooks: tuple[str, ...]) -> tuple[str, int, int | None]:
    """Return hook, call and rank: a moment that comes in an unbroken run of the deal."""
    hook = rng.choice(hooks)
    saves = STEPS // deal.save_every
    most = {
        "step": STEPS,
        "batch": STEPS * deal.config.micro_batches,
        "metrics row": STEPS + 3,
        "evaluate": 3,
        "plot": 2,
        "checkpoint": saves,
        "model file": saves,
        "state file": 2 * saves,
        "checksums": 2 * saves,
        "rename": saves,
        "latest": saves,
        "best": saves,
        "prune": saves,
        "reference": 3,
        "reference file": 2,
        "reference rename": 2,
        WRITE: 40,
    }.get(hook, 1)
    rank = 0
    if hook not in ONLY_RANK_0 and hook != WRITE and deal.config.ranks > 1:
        rank = rng.choice([None, *range(deal.config.ranks)])
    return hook, rng.randint(1, most), rank


def _hooks(deal: Deal) -> tuple[str, ...]:
    """Return the hooks of a run of the deal, half of them those of saving."""
    hooks = (*BEGINS, *IN_A_RUN, WRITE, WRITE)
    if deal.config.stage == "D":
        hooks = (*hooks, "reference", "reference", "reference file", "reference rename")
    return hooks


def _kill(rng: random.Random, deal: Deal) -> Deal:
    faults = [Fault("kill", *_moment(rng, deal, _hooks(deal)))]
    if rng.random() < 0.5:
        hooks = (*IN_A_RUN, WRITE, "restore", "metrics opened")
        faults.append(Fault("kill", *_moment(rng, deal, hooks)))
    return _with(deal, *faults)


def _signal(rng: random.Random, deal: Deal) -> Deal:
    hooks = tuple(hook for hook in _hooks(deal) if hook != WRITE)
    faults = [Fault("signal", *_moment(rng, deal, hooks), (rng.choice(SIGNALS),))]
    if rng.random() < 0.4:
        more = Fault("signal", *_moment(rng, deal, IN_A_RUN), (rng.choice(SIGNALS),))
        faults.append(rng.choice([more, Fault("kill", *_moment(rng, deal, IN_A_RUN))]))
    return _with(deal, *faults)


def _full_disk(rng: random.Random, deal: Deal) -> Deal:
    form = rng.choice(["limit", "usage", "hook", "hook"])
    if form == "hook":
        hooks = (
            "model file",
            "state file",
            "checksums",
            "rename",
            "latest",
            "best",
            "prune",
            "metrics opened",
        )
        if deal.config.stage == "D":
            hooks = (*hooks, "reference file", "reference rename")
        return _with(deal, Fault("full disk", *_moment(rng, deal, hooks), (form,)))
    save = rng.randint(1, STEPS // deal.save_every) * deal.save_every  # fails, with those before and after it
    first, last = rng.randint(1, save), rng.randint(save, STEPS)
    faults = [Fault("full disk", detail=(form, first, last))]
    if rng.random() < 0.3:
        faults.append(Fault("kill", *_moment(rng, deal, IN_A_RUN)))
    return _with(deal, *faults)


def _damage(rng: random.Random, deal: Deal) -> Deal:
    how = rng.choice(["flip", "flip", "cut"])
    places = ["checkpoint"] * 5 + ["data"] * 2 + ["latest", "best"]
    if deal.config.stage == "D":
        places += ["table", "table", "part", "init"]
    place = rng.choice(places)
    files = {"checkpoint": CHECKPOINT_FILES, "data": DATA_FILES, "init": CHECKPOINT_FILES[:5]}
    name = rng.choice(files.get(place, ("",)))
    if place == "table":
        name = rng.choice([".npy", ".sha256"])
    damage = Fault("damage", detail=(how, place, name))
    if place == "init":
        return _with(deal, damage)
    if place == "part":
        return _with(deal, Fault("signal", "reference", 2, 0, ("SIGTERM",)), damage)

    # Something is saved before, and the newest checkpoint is not the last one.
    step = rng.randint(deal.save_every + 1, STEPS)
    before = rng.choice([Fault("kill", "step", step), Fault("signal", "step", step, 0, ("SIGTERM",))])
    return _with(deal, before, damage)


def _not_finite(rng: random.Random, deal: Deal) -> Deal:
    bad_steps = rng.choice([(3,), (5,), (4, 5)])
    bad = rng.choice(["loss", "gradient"])
    deal = replace(deal, config=replace(deal.config, bad_steps=bad_steps, bad=bad))
    # A rollback goes to the newest checkpoint from before: it is there in each run if each step is saved.
    if len(bad_steps) > 1:
        deal = replace(deal, save_every=1)
    hooks = ("step", "batch", "checkpoint", "rename", "latest")
    hook, call, rank = _moment(rng, deal, hooks)
    if hook in IN_A_SAVE:
        call = min(call, STEPS // deal.save_every - 1)  # a failed step is not saved
    if rng.random() < 0.5:
        return _with(deal, Fault("kill", hook, call, rank))
    return _with(deal, Fault("signal", hook, call, rank, (rng.choice(SIGNALS),)))


def _stall(rng: random.Random, deal: Deal) -> Deal:
    hooks = ("step", "batch", "evaluate", "checkpoint", "model file", "rename", "prune", "optimizers")
    hook, call, rank = _moment(rng, deal, hooks)
    return _with(deal, Fault("stall", hook, call, rank or 0))


def _second_process(rng: random.Random, deal: Deal) -> Deal:
    hooks = (*IN_A_RUN, "build", *(["reference"] if deal.config.stage == "D" else []))
    hook, call, _ = _moment(rng, deal, hooks)
    return _with(deal, Fault("second process", hook, call, 0, (rng.choice(["", "--resume"]),)))


def _rerun(rng: random.Random, deal: Deal) -> Deal:
    return _with(deal, Fault("rerun", *_moment(rng, deal, IN_A_RUN)))


def _together(rng: random.Random, deal: Deal) -> Deal:
    hook = rng.choice(["reference", "reference", "reference file", "reference rename"])
    call = rng.randint(1, 3 if hook == "reference" else 2)
    return _with(deal, Fault("together", hook, call, 0, (rng.choice(["waits", "waits", "killed"]),)))


def _torchrun(rng: random.Random, deal: Deal) -> Deal:
    return replace(_kill(rng, deal), under_torchrun=True)


def _other_ranks(rng: random.Random, deal: Deal) -> Deal:
    others = {1: (2,), 2: (1,), 3: (1, 2)}
    after = rng.choice(others[deal.config.ranks])
    hook, call, rank = _moment(rng, deal, ("step", "batch", "rename", "latest"))
    deal = replace(deal, ranks_after=after, under_torchrun=rng.random() < 0.3)
    if rng.random() < 0.5:
        return _with(deal, Fault("kill", hook, call, rank))
    return _with(deal, Fault("signal", hook, call, rank, ("SIGTERM",)))


DRAWS = {
    "kill": _kill,
    "signal": _signal,
    "full disk": _full_disk,
    "damage": _damage,
    "not finite": _not_finite,
    "stall": _stall,
    "second process": _second_process,
    "rerun": _rerun,
    "together": _together,
    "torchrun": _torchrun,
    "other ranks": _other_ranks,
}
