"""Random cases of the property tests: settings, data and models drawn from a seed, and what the program makes of them.

This file is the only one of the property tests that calls the program; plain_reference.py has what is compared with it.
"""

import copy
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_reference import (
    Document,
    Reference,
    Sums,
    differs,
    gradients_of,
    prompt_length,
    reference_table,
    truncate,
)
from torch import nn

from checkpoint import hf_config
from config import IGNORE, ModelArgs
from dataloader.batch import Batch, Row, collate
from dataloader.loader import Loader, Rows, fixed_batches, keyed_hash
from dataloader.packing import truncate_to_context
from dataprep.shards import FORMAT, ShardWriter, TokenDataset, id_dtype
from model import Llama
from runtime.distributed import DistributedEnv
from trainer import train_step
from training import chunked_loss
from training.objectives import evaluate
from training.optimizers import build_optimizers, set_lr
from training.parallel import parallelize
from training.stages import STAGES

FAST_CASES = 5
SLOW_CASES = 120

CPU = DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "test")


def random_cases(test: Callable) -> Callable:
    """Run a test with a few seeds, and under the marker slow with 120 others."""
    slow = range(FAST_CASES, FAST_CASES + SLOW_CASES)
    seeds = [*range(FAST_CASES), *(pytest.param(seed, marks=pytest.mark.slow) for seed in slow)]
    return pytest.mark.parametrize("seed", seeds)(test)


# ---- settings and models


def random_args(rng: random.Random, stage: str, min_width: int = 8, **fixed: object) -> ModelArgs:
    """Return the settings of a small model: all ratios of heads, given or derived widths, one to three layers."""
    kv_heads = rng.randint(1, 4)
    heads = kv_heads * rng.randint(1, 8)
    if rng.random() < 0.5:
        head_dim = None
        width = heads * 2 * rng.randint(1, 3)
    else:
        head_dim = 2 * rng.randint(1, 4)
        width = heads * rng.randint(1, 4)  # transformers wants a multiple
    while width < min_width:
        width *= 2

    settings = dict(
        train=stage,
        embeddings_dims=width,
        no_of_heads=heads,
        no_kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_dims=rng.randint(1, 48),
        no_of_decoder_layers=rng.randint(1, 3),
        tie_embeddings=rng.random() < 0.5,
        vocab_size=rng.choice([2, 3, rng.randint(4, 80)]),
        block_size=rng.choice([2, 3, rng.randint(4, 24)]),
        eps=10 ** rng.uniform(-6, -2),
        rope_theta=10 ** rng.uniform(1, 6),
        dropout=0.0,
        attn_dropout=0.0,
        beta=rng.uniform(0.05, 1.0),
        device="cpu",
    )
    return ModelArgs(**{**settings, **fixed})


# Values of flags, legal and not; each list begins with the ordinary ones.
FLAG_VALUES: dict[str, list[object]] = {
    "embeddings_dims": [16, 24, 32, 48, 64, 2, 10, 15, 30, 33, 100, 1, 0, -8, "x"],
    "no_of_heads": [4, 4, 2, 8, 1, 3, 5, 6, 0, 1.5],
    "no_kv_heads": [2, 2, 1, 4, 3, 8, 0, -1],
    "head_dim": [8, 2, 4, 16, 20, 6, 7, 1, 0, 130],
    "no_of_decoder_layers": [1, 2, 3, 0, -1],
    "hidden_dims": [48, 1, 7, 64, 100, 0],
    "vocab_size": [257, 320, 300, 511, 256, 2, 0],
    "block_size": [16, 2, 3, 33, 64, 100, 1, 0],
    "eps": [1e-5, 1e-6, 1e-3, 0.1, 0, 1e-12, 1e-300, 1e300, -1e-5, "nan", "inf"],
    "rope_theta": [1e4, 1e6, 1, 1.5, 500000, 1e30, 1e300, 0.5, 0, -1, "nan", "inf"],
    "temperature": [0.8, 0, 1, 2, 1e-3, 1e300, 1e-9, -1, "nan", "inf"],
    "top_k": [50, 0, 1, 10**6, -1],
    "top_p": [1, 0.9, 1e-300, 1e-9, 0, 1.1],
    "min_p": [0, 0.1, 1, 1e-300, -0.1, 2],
    "repetition_penalty": [1, 1.2, 0.001, 1000, 0, 1e300],
    "frequency_penalty": [0, 0.5, -1000, 1000, 1e300, "-inf"],
    "num_beams": [1, 2, 4, 100, 0],
}
ORDINARY = 4  # values at the start of a list


def draw_words(rng: random.Random) -> list[str]:
    """Return the words of a command line: the shape of a model and how it samples, now and then a value of the edge."""
    words = [rng.choice(["--tie_embeddings", "--no-tie_embeddings"])]
    for name, values in FLAG_VALUES.items():
        if rng.random() < 0.5:
            choices = values if rng.random() < 0.2 else values[:ORDINARY]
            words.append(f"--{name}={rng.choice(choices)}")
    return words


def random_model(rng: random.Random, args: ModelArgs) -> Llama:
    """Return a model whose attention and logits are far from uniform and whose norms are not 1."""
    torch.manual_seed(rng.randrange(2**31))
    model = Llama(args)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=1 / math.sqrt(weight.shape[1]))
            else:
                weight.normal_(mean=1.0, std=0.3)
    return model


def reference_of(model: Llama) -> Reference:
    """Return transformers' model with the settings and weights of a model."""
    return Reference(hf_config(model.args, eos_id=0), model.state_dict())


# ---- data


def random_ids(rng: random.Random, vocab_size: int, count: int, without: int | None = None) -> list[int]:
    """Return random token ids, none of them `without`."""
    ids = [token for token in range(vocab_size) if token != without]
    return rng.choices(ids, k=count)


def random_documents(rng: random.Random, args: ModelArgs, eos_id: int) -> list[list[int]]:
    """Return documents that end with EOS: empty ones, short ones and some longer than a row."""
    documents = []
    total = 0
    least = rng.randint(1, 4) * args.block_size + 1
    while total < least:
        length = rng.choice([0, 1, rng.randint(2, args.block_size), rng.randint(2, 2 * args.block_size)])
        documents.append([*random_ids(rng, args.vocab_size, length, without=eos_id), eos_id])
        total += length + 1
    return documents


def random_conversation(rng: random.Random, args: ModelArgs) -> Document:
    """Return a conversation of one to three turns, some of them longer than the context."""
    longest = max(1, rng.choice([2, args.block_size // 2, args.block_size]))
    ids, loss_mask = [], []
    for _ in range(rng.randint(1, 3)):
        prompt = rng.randint(1, longest)
        response = rng.randint(1, longest)
        ids += random_ids(rng, args.vocab_size, prompt + response)
        loss_mask += [False] * prompt + [True] * response
    return ids, loss_mask


def random_conversations(rng: random.Random, args: ModelArgs) -> list[Document]:
    """Return a few conversations."""
    return [random_conversation(rng, args) for _ in range(rng.randint(1, 8))]


def random_pair(rng: random.Random, args: ModelArgs) -> tuple[Document, Document]:
    """Return (chosen, rejected): other answers, one other token, a prefix, more turns, or no difference."""
    ids, loss_mask = random_conversation(rng, args)
    start = prompt_length(loss_mask)
    form = rng.choice(["answer", "answer", "token", "token", "prefix", "turns", "equal"])

    other_ids, other_mask = list(ids), list(loss_mask)
    if form == "answer":
        length = rng.randint(1, args.block_size)
        other_ids = ids[:start] + random_ids(rng, args.vocab_size, length)
        other_mask = loss_mask[:start] + [True] * length
    elif form == "token":
        position = rng.randrange(start, len(ids))
        other_ids[position] = (ids[position] + 1) % args.vocab_size
    elif form == "prefix":
        length = rng.randint(1, 4)
        other_ids += random_ids(rng, args.vocab_size, length)
        other_mask += [True] * length
    elif form == "turns":
        more_ids, more_mask = random_conversation(rng, args)
        other_ids += more_ids
        other_mask += more_mask

    pair = [(ids, loss_mask), (other_ids, other_mask)]
    rng.shuffle(pair)
    return tuple(pair)


def random_pairs(rng: random.Random, args: ModelArgs) -> list[tuple[Document, Document]]:
    """Return a few pairs, at least one of which still differs when it is truncated."""
    while True:
        pairs = [random_pair(rng, args) for _ in range(rng.randint(1, 6))]
        if any(differs(truncate(pair, args.block_size + 1)) for pair in pairs):
            return pairs


def write_dataset(
    rng: random.Random,
    folder: Path,
    args: ModelArgs,
    kind: str,
    documents: list[Document] | list[list[int]],
    eos_id: int = -1,
) -> TokenDataset:
    """Write documents as a prepared dataset of one to three shards, and open it."""
    shards = rng.randint(1, 3)
    cuts = sorted(rng.choices(range(0, len(documents) + 1, 1 if kind != "preference" else 2), k=shards - 1))
    entries = []
    for index, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(documents)], strict=True)):
        dtype = id_dtype(args.vocab_size)
        writer = ShardWriter(folder, "train", index, dtype, with_loss_mask=kind != "text")
        for document in documents[start:stop]:
            ids, loss_mask = (document, None) if kind == "text" else map(np.array, document)
            writer.add(np.array(ids), loss_mask, len(ids), is_complete=True)
        entries.append(writer.close())

    tokenizer = {"vocab_size": args.vocab_size, "eos_id": eos_id}
    meta = {"format": FORMAT, "kind": kind, "splits": {"train": entries}, "tokenizer": tokenizer}
    return TokenDataset(folder, "train", meta)


def training_rows(stage: str, dataset: TokenDataset, args: ModelArgs, seed: int = 0) -> Rows:
    """Return the training rows of a stage."""
    return STAGES[stage].rows(dataset, args.block_size, seed)


def validation_rows(stage: str, dataset: TokenDataset, args: ModelArgs, seed: int = 0) -> Rows:
    """Return the validation rows of a stage."""
    return STAGES[stage].validation_rows(dataset, args.block_size, seed)


def random_rows(
    rng: random.Random, folder: Path, args: ModelArgs, reference: "Reference"
) -> tuple[Rows, list]:
    """Return rows of the stage of the settings, and the documents, conversations or pairs that they are made of."""
    if args.train == "P":
        eos_id = rng.randrange(args.vocab_size)
        documents = random_documents(rng, args, eos_id)
        return training_rows(
            "P", write_dataset(rng, folder, args, "text", documents, eos_id), args
        ), documents

    if args.train == "S":
        conversations = random_conversations(rng, args)
        dataset = write_dataset(rng, folder, args, "instruct", conversations)
        return training_rows("S", dataset, args), conversations

    pairs = random_pairs(rng, args)
    answers = [answer for pair in pairs for answer in pair]
    rows = training_rows("D", write_dataset(rng, folder, args, "preference", answers), args)
    table = reference_table(reference, pairs, args.block_size)
    table += torch.tensor([[rng.gauss(0, 1), rng.gauss(0, 1)] for _ in pairs])
    return rows.with_reference(table.numpy()), pairs


def all_batches(rng: random.Random, rows: Rows) -> list[Batch]:
    """Return each row once, in batches of one to three rows."""
    return list(fixed_batches(rows, rng.randint(1, 3), 0, 1))


def row_start(rows: Rows, index: int, epoch: int) -> int:
    """Return the position in the stream where a row of pretraining begins."""
    offset = keyed_hash(rows.seed, epoch) % rows.T if epoch else 0
    return offset + index * rows.T


def collate_rows(rows: Rows, places: list[tuple[int, int]], empty_rows: int = 0) -> Batch:
    """Return a batch of the rows at (index, epoch), then some rows without labels."""
    empty = _without_labels(rows.at(0))
    return collate([rows.at(index, epoch) for index, epoch in places] + [empty] * empty_rows)


def _without_labels(row: Row) -> Row:
    """Return a row without labels and, if it is one of pairs, without pairs."""
    reference = None if row.reference is None else row.reference[:0]
    return row._replace(labels=np.full_like(row.labels, IGNORE), reference=reference)


def by_mask(batch: Batch) -> Batch:
    """Return the batch for the attention of a GPU: under a mask instead of segment by segment."""
    return batch._replace(segments=None)


# ---- the program's results


def objective_sums(model: nn.Module, args: ModelArgs, batches: list[Batch], autocast: bool = False) -> Sums:
    """Return the sums of the objective of a stage over batches."""
    objective = STAGES[args.train].objective(args)
    model.zero_grad()
    loss, count, extra = 0.0, 0.0, {}
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            batch_loss, batch_count, sums = objective(model, batch)
        batch_loss.backward()
        loss += batch_loss.item()
        count += batch_count.item()
        for name, value in sums.items():
            extra[name] = extra.get(name, 0.0) + value.item()
    return Sums(loss, count, extra, gradients_of(model))


def evaluation_sums(model: nn.Module, args: ModelArgs, rows: Rows, batch_size: int, ranks: int) -> Sums:
    """Return the sums of an evaluation on all rows that several ranks share."""
    objective = STAGES[args.train].objective(args)
    total = Sums(0.0, 0.0, {}, {})
    for rank in range(ranks):
        means = evaluate(objective, model, fixed_batches(rows, batch_size, rank, ranks), CPU)
        count = means.pop("count")
        total.count += count
        total.loss += count * means.pop("loss")
        for name, mean in means.items():
            total.extra[name] = total.extra.get(name, 0.0) + count * mean
    return total


def step_sums(
    model: Llama, args: ModelArgs, rows: Rows, micro_batch: int, accumulation: int
) -> tuple[dict, dict]:
    """Take one optimizer step on a copy of the model. Returns its means and the gradients that optimizers saw."""
    model = copy.deepcopy(model)
    args = args.replace(micro_batch_size=micro_batch, gradient_accumulation_steps=accumulation)
    optimizers = build_optimizers(model, args)
    gradients = {}
    optimizers[0].register_step_pre_hook(lambda *_: gradients.update(gradients_of(model)))

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loader = Loader(rows, micro_batch, 0, 1)
    objective = STAGES[args.train].objective(args)
    result = train_step(objective, model, optimizers, scaler, loader, args, CPU)
    assert result.fault is None
    return result.means, gradients


def checkpointed(model: Llama, args: ModelArgs) -> Llama:
    """Return a copy of the model that recomputes each layer in backward."""
    model = copy.deepcopy(model)
    parallelize(model, args.replace(activation_checkpointing=True), CPU, compiled=False)
    return model


def set_head_chunk(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Have the chunked loss compute the head at about this many positions at a time."""
    monkeypatch.setattr(chunked_loss, "MAX_CHUNK_LOGITS", 0)
    monkeypatch.setattr(chunked_loss, "MIN_CHUNK_TOKENS", rows)


def lr_at(step: int, args: ModelArgs, end: int) -> float:
    """Return the learning rate of a step."""
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "peak_lr": args.max_lr}], lr=0.0)
    set_lr([optimizer], step, args, end)
    return optimizer.param_groups[0]["lr"]


class CountedRows:
    """Rows that have a number and a seed, and nothing in them."""

    def __init__(self, count: int, seed: int = 0):
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count


def truncated(answers: Iterable[Document], room: int) -> list[Document]:
    """Return answers as the program truncates them."""
    arrays = [(np.array(ids), np.array(loss_mask)) for ids, loss_mask in answers]
    return [(ids.tolist(), mask.tolist()) for ids, mask in truncate_to_context(arrays, room)]


def order_of(rows: Rows, positions: Iterable[int], skipped: list[tuple[int, int]]) -> list[int]:
    """Return the row, counted over all epochs, at each position of the order."""
    loader = Loader(rows, 1, 0, 1, skipped_ranges=skipped)
    return [loader.row_index(position) for position in positions]


def indices_of_epoch(rows: Rows, epoch: int) -> list[int]:
    """Return the indices of the rows in the order of an epoch."""
    loader = Loader(rows, 1, 0, 1)
    numbers = range(epoch * len(rows), (epoch + 1) * len(rows))
    places = [loader.epoch_and_index(number) for number in numbers]
    assert {place[0] for place in places} == {epoch}
    return [index for _, index in places]
