"""The objective against the plain formula, and sums that are divided once."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from examples import MULTI, talk
from torch import Tensor, nn
from toy import toy_rows, write_rows

from checkpoint import hf_config
from config import IGNORE, ModelArgs
from dataloader.batch import Batch, collate
from dataloader.loader import Loader, fixed_batches
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows
from dataprep.shards import TokenDataset, read_meta
from model import Llama
from runtime.distributed import DistributedEnv
from trainer import train_step
from training import chunked_loss, objectives
from training.objectives import (
    completion_lengths,
    completion_logps,
    evaluate,
    global_means,
    next_token,
    preference,
    preference_loss,
)
from training.optimizers import build_optimizers


def random_batch(args: ModelArgs, B: int, T: int, ignored: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(B * T)
    tokens = torch.randint(args.vocab_size, (B, T + 1), generator=generator)
    nothing = torch.rand(B, T, generator=generator) < ignored
    return Batch(tokens[:, :-1], tokens[:, 1:].masked_fill(nothing, IGNORE))


def test_next_token_is_the_cross_entropy_of_the_logits(tiny: ModelArgs) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 3, 16, ignored=0.3)
    loss, count, sums = next_token(model, batch)
    expected = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="sum")
    assert 0 < count < 48 and count == (batch.labels != IGNORE).sum() and sums == {}
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected.backward()
    for name, p in model.named_parameters():
        assert p.grad.norm() > 0 and (gradients[name] - p.grad).norm() < 1e-4 * p.grad.norm(), name


def test_packed_documents_are_kept_apart(tiny: ModelArgs) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 2, 16)
    doc_ids = torch.arange(16).div(8, rounding_mode="floor").expand(2, -1)
    packed = next_token(model, batch._replace(doc_ids=doc_ids))[0].item()
    halves = [Batch(batch.tokens[:, part], batch.labels[:, part]) for part in (slice(8), slice(8, 16))]
    assert packed == pytest.approx(sum(next_token(model, half)[0].item() for half in halves), rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_batch_without_labels_teaches_nothing(tiny: ModelArgs, env: DistributedEnv, autocast: bool) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 2, 8, ignored=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = next_token(model, batch)
    assert result[0] == 0 and result[1] == 0
    result[0].backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
    assert global_means([result], env) == {"loss": 0.0, "count": 0.0}


def test_autocast_keeps_the_loss_in_float32(tiny: ModelArgs, spread, env: DistributedEnv) -> None:
    model, batch = spread(Llama(tiny)), random_batch(tiny, 4, 32)
    exact = next_token(model, batch)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, _ = next_token(model, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-2) and loss.item() != exact
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_without_dropout_and_leaves_no_trace(
    tiny: ModelArgs, env: DistributedEnv, training: bool
) -> None:
    model = Llama(tiny.replace(dropout=0.5)).train(training)
    batches = [random_batch(tiny, B, 16, ignored=B / 8) for B in (1, 2, 5)]
    before = torch.get_rng_state()
    first, again = (evaluate(next_token, model, iter(batches), env) for _ in range(2))
    assert first == again and model.training is training and torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    results = [next_token(model.eval(), batch) for batch in batches]
    assert first["count"] == sum(int(count) for _, count, _ in results)
    assert first["loss"] == pytest.approx(sum(loss.item() for loss, _, _ in results) / first["count"])


def test_means_divide_once(env: DistributedEnv) -> None:
    results = [
        (torch.tensor(10.0), torch.tensor(1), {"right": torch.tensor(1.0)}),
        (torch.tensor(10.0), torch.tensor(9), {"right": torch.tensor(3.0)}),
    ]
    assert global_means(results, env) == {
        "loss": 2.0,
        "count": 10.0,
        "right": 0.4,
    }  # means of means: 5.6 and 0.67


def test_a_wrapped_model_has_the_same_head(tiny: ModelArgs) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, *args, **options):
            return self.module(*args, **options)

    model, batch = Llama(tiny), random_batch(tiny, 2, 8)
    loss = next_token(Wrapper(model), batch)[0]
    assert torch.equal(loss, next_token(model, batch)[0]) and 0 < loss < 100 * math.log(96)


# --- conversations and pairs, against transformers one by one --------------------------------------------------------

SPEAKING = [
    {"messages": MULTI},
    {"instruction": "Greet", "input": "in French", "output": "Salut, ça va ?"},
    {"messages": talk("One?", "Two", "Three?", "Four")},
    *toy_rows("instruct", 20, 0),
]
PREFERRING = [
    {"prompt": MULTI[:4], "chosen": "Goodbye, then.", "rejected": "Go."},
    {"chosen": talk("Hi", "Hello, you", "So?", "Good"), "rejected": talk("Hi", "Hello, me")},
    *toy_rows("preference", 20, 0),
]


@pytest.fixture
def talking() -> ModelArgs:
    """Settings of a tiny model of bytes whose context holds a conversation."""
    return ModelArgs(
        embeddings_dims=32,
        no_of_decoder_layers=2,
        no_of_heads=4,
        no_kv_heads=2,
        hidden_dims=48,
        vocab_size=257,
        block_size=192,
        dropout=0.0,
        attn_dropout=0.0,
        device="cpu",
        train="D",
    )


@pytest.fixture
def ours(talking: ModelArgs, spread) -> Llama:
    torch.manual_seed(0)
    return spread(Llama(talking))


def in_transformers(model: Llama) -> transformers.LlamaForCausalLM:
    """The same model as transformers builds it; it would withhold the gradient of a padding token it knew of."""
    config = transformers.LlamaConfig(**{**hf_config(model.args, 256), "pad_token_id": None})
    theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(model.state_dict())
    return theirs


def prepared(folder: Path, kind: str, rows: list[dict]) -> TokenDataset:
    write_rows(folder / "data", kind, {"train": [rows[:1], rows[1:]]})
    return TokenDataset(folder / "data", "train", read_meta(folder / "data"))


def nats(theirs: transformers.LlamaForCausalLM, ids: np.ndarray, keep: np.ndarray) -> Tensor:
    """Summed cross-entropy of the kept tokens of one sequence alone, by transformers' own loss and shift."""
    tokens = torch.from_numpy(ids)[None]
    labels = tokens.masked_fill(~torch.from_numpy(keep)[None], -100)
    return theirs(tokens, labels=labels).loss * int(keep.sum())


def same_gradients(loss: Tensor, ours: Llama, expected: Tensor, theirs: nn.Module) -> None:
    names, weights = zip(*ours.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights)
    others = torch.autograd.grad(expected, [theirs.get_parameter(name) for name in names])
    for name, gradient, other in zip(names, gradients, others, strict=True):
        assert other.norm() > 0 and (gradient - other).norm() < 1e-4 * other.norm(), name


def test_packed_conversations_have_the_loss_of_each_alone(ours: Llama, tmp_path: Path) -> None:
    store, theirs = prepared(tmp_path, "instruct", SPEAKING), in_transformers(ours)
    rows = PackedRows(store, 160, seed=0)
    batches = list(fixed_batches(rows, 3, 0, 1))
    assert (
        max(map(len, rows.members)) > 2 and len(batches) > 2
    )  # several in a row, padding, several micro-batches
    assert any((batch.labels == IGNORE).all(0).any() for batch in batches)
    results = [next_token(ours, batch) for batch in batches]
    alone = [store.document(number) for number in range(store.documents)]
    expected = [nats(theirs, *each) for each in alone]
    tokens = [int(keep.sum()) for _, keep in alone]
    assert sum(int(count) for _, count, _ in results) == sum(tokens)
    loss, plain = sum(result[0] for result in results) / sum(tokens), sum(expected) / sum(tokens)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    mean_of_means = sum(each.item() / count for each, count in zip(expected, tokens, strict=True)) / len(
        tokens
    )
    assert abs(mean_of_means - plain.item()) > 1e-3 * plain.item()
    same_gradients(loss, ours, plain, theirs)


def test_truncated_conversations_have_the_loss_of_what_is_left(ours: Llama, tmp_path: Path) -> None:
    long = [{"instruction": "word " * 30, "output": "short"}, {"instruction": "Hi", "output": "word " * 40}]
    store, theirs = prepared(tmp_path, "instruct", long), in_transformers(ours)
    loss, count, _ = next_token(ours, collate([row for row in map(PackedRows(store, 63, 0).at, range(2))]))
    (prompted, _), (hi, keep) = (store.document(number) for number in range(2))
    start = int(keep.argmax())
    left = [prompted[-64:], hi[start - 32 : start + 32]]  # the end of the prompt; half the room for each
    kept = [np.arange(64) >= 64 - 6, np.arange(64) >= 32]
    assert count == 6 + 32 and start > 32
    expected = sum(nats(theirs, *each).item() for each in zip(left, kept, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def pairs(ours: Llama, tmp_path: Path) -> tuple[PairRows, Llama]:
    """Rows of pairs with the log-probs of a reference that is near the model, and the reference."""
    rows, reference = PairRows(prepared(tmp_path, "preference", PREFERRING), 192, seed=0), Llama(ours.args)
    torch.manual_seed(1)
    reference.load_state_dict(
        {
            name: weight + 0.02 * weight.std() * torch.randn_like(weight)
            for name, weight in ours.state_dict().items()
        }
    )
    with torch.no_grad():
        for place, members in enumerate(rows.members):
            rows.reference[members] = completion_logps(reference, collate([rows.at(place)])).view(-1, 2)
    return rows, reference


def plain_logps(
    model: Llama, store: TokenDataset, pairs: int
) -> tuple[transformers.LlamaForCausalLM, Tensor]:
    """(transformers' model, log-probs (pairs, 2)) of each answer with its prompt, alone."""
    theirs = in_transformers(model)
    logps = [-nats(theirs, *store.document(number)) for number in range(2 * pairs)]
    return theirs, torch.stack(logps).view(-1, 2)


def objective_of(args: ModelArgs, **options):
    return preference(args.replace(**options))


KINDS = [{}, {"beta": 0.5}, {"label_smoothing": 0.2}, {"dpo_loss": "ipo", "beta": 0.2}]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_packed_pairs_have_the_loss_of_each_answer_alone(
    ours: Llama, pairs: tuple[PairRows, Llama], options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_loss, "MIN_CHUNK_TOKENS", 50)  # so that a batch is several parts
    monkeypatch.setattr(chunked_loss, "MAX_CHUNK_LOGITS", 1)
    rows, reference = pairs
    theirs, policy = plain_logps(ours, rows.dataset, len(PREFERRING))
    frozen = plain_logps(reference, rows.dataset, len(PREFERRING))[1].detach()
    assert (policy - frozen).abs().min() > 1e-3
    torch.testing.assert_close(torch.from_numpy(rows.reference), frozen, rtol=1e-5, atol=1e-4)
    batches = list(fixed_batches(rows, 2, 0, 1))
    assert max(map(len, rows.members)) > 1 and len(batches) > 1
    args = ours.args.replace(**options)
    results = [objective_of(ours.args, **options)(ours, batch) for batch in batches]
    loss, count = (sum(result[part] for result in results) for part in (0, 1))
    assert count == len(PREFERRING)

    ratios = policy - frozen
    if args.dpo_loss == "ipo":
        learned = torch.tensor(
            [int(rows.dataset.document(n)[1].sum()) for n in range(2 * len(PREFERRING))]
        ).view(-1, 2)
        margins = (ratios / learned).diff().neg()
        plain = ((margins - 1 / (2 * args.beta)) ** 2).mean()
    else:
        right = torch.sigmoid(args.beta * ratios.diff().neg())
        plain = -((1 - args.label_smoothing) * right.log() + args.label_smoothing * (1 - right).log()).mean()
    assert loss.item() / count == pytest.approx(plain.item(), rel=1e-4)
    same_gradients(loss / count, ours, plain, theirs)

    sums = {name: sum(result[2][name] for result in results).item() / count.item() for name in results[0][2]}
    rewards, logps = (args.beta * ratios).detach(), policy.detach()
    assert sums == {
        name: pytest.approx(value.item(), rel=1e-4, abs=1e-4)
        for name, value in {
            "accuracy": (rewards[:, 0] > rewards[:, 1]).double().mean(),
            "margin": (rewards[:, 0] - rewards[:, 1]).mean(),
            "chosen_reward": rewards[:, 0].mean(),
            "rejected_reward": rewards[:, 1].mean(),
            "chosen_logps": logps[:, 0].mean(),
            "rejected_logps": logps[:, 1].mean(),
        }.items()
    }
    assert 0 < sums["accuracy"] < 1


def test_the_pairs_of_chunks_are_all_pairs_once() -> None:
    boundaries = [0, 4, 4, 9, 12, 12]  # the pairs 0, 2 and 5 have no position
    cuts = [0, 4, 9, 12]
    pairs = [objectives._pairs_of_chunk(boundaries, slice(*cut)) for cut in zip(cuts, cuts[1:], strict=False)]
    assert [(part.start, part.stop) for part in pairs] == [(0, 3), (3, 4), (4, 6)]
    assert objectives._pairs_of_chunk(boundaries, slice(0, 12)) == slice(0, 6)


@pytest.mark.parametrize(
    "options, first",
    [({}, math.log(2)), ({"label_smoothing": 0.3}, math.log(2)), ({"dpo_loss": "ipo", "beta": 0.5}, 1.0)],
)
def test_the_first_loss_is_that_of_no_preference(
    ours: Llama, pairs: tuple[PairRows, Llama], env: DistributedEnv, options: dict, first: float
) -> None:
    rows, reference = pairs
    objective = objective_of(ours.args, **options)
    means = evaluate(objective, reference, fixed_batches(rows, 3, 0, 1), env)
    assert means["loss"] == pytest.approx(first, abs=1e-5) and means["margin"] == pytest.approx(0, abs=1e-5)
    assert abs(evaluate(objective, ours, fixed_batches(rows, 3, 0, 1), env)["loss"] - first) > 1e-3
    loss, _, _ = objective(reference, next(fixed_batches(rows, 3, 0, 1)))
    assert all(gradient.norm() > 0 for gradient in torch.autograd.grad(loss, list(reference.parameters())))


def test_learning_moves_the_policy_and_not_the_reference(ours: Llama, pairs: tuple[PairRows, Llama]) -> None:
    rows, objective = pairs[0], preference(ours.args)
    before, optimizer = rows.reference.copy(), torch.optim.AdamW(ours.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        batch = next(fixed_batches(rows, 100, 0, 1))
        assert not batch.reference.requires_grad
        loss, count, sums = objective(ours, batch)
        assert not any(value.requires_grad for value in sums.values())
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        losses.append(loss.item() / count.item())
    assert losses[-1] < losses[0] - 0.1 and sums["accuracy"] / count > 0.8
    assert np.array_equal(rows.reference, before)


def test_neither_padding_nor_neighbours_matter(ours: Llama, pairs: tuple[PairRows, Llama]) -> None:
    rows, objective = pairs[0], preference(ours.args)
    (whole,) = fixed_batches(rows, 100, 0, 1)
    padding = (whole.branches == 0) & (whole.positions == 0) & (whole.tokens == 0)
    assert padding.sum() > 10
    other = whole._replace(tokens=whole.tokens.masked_fill(padding, 7))
    assert torch.equal(completion_logps(ours, other), completion_logps(ours, whole))
    first = whole._replace(
        tokens=torch.where(whole.doc_ids == 0, 7, whole.tokens)
    )  # other words in the first pairs
    same = completion_logps(ours, first).isclose(completion_logps(ours, whole), rtol=1e-5, atol=1e-5)
    assert (~same).sum() == 2 * len(rows)
    counts = completion_lengths(whole).long().tolist()
    order = np.concatenate(rows.members)
    assert counts == [
        int(rows.dataset.document(2 * pair + side)[1].sum()) for pair in order for side in (0, 1)
    ]
    assert objective(ours, whole)[1] == len(order)


def test_the_log_probs_of_long_answers_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    logps = torch.randn(2_000, generator=torch.Generator().manual_seed(0)) - 10
    batch = Batch(
        logps, logps, completion_index=torch.zeros(len(logps), dtype=torch.long), reference=torch.zeros(2)
    )
    monkeypatch.setattr(objectives, "hidden_at_labels", lambda model, batch: ())
    monkeypatch.setattr(objectives, "label_logps", lambda: logps)
    exact = logps.double().sum().float()
    assert (
        torch.zeros(1).index_add(0, batch.completion_index, logps)[0] != exact
    )  # one after another in float32
    assert completion_logps(None, batch).tolist() == [exact.item(), 0.0]


def test_the_preference_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])  # differences 1, -2, 0
    sigmoid = [1 / (1 + math.exp(-0.1 * difference)) for difference in (1, -2, 0)]
    assert preference_loss(chosen, rejected, 0.1).tolist() == pytest.approx([-math.log(p) for p in sigmoid])
    assert preference_loss(chosen, rejected, 0.1, 0.25).tolist() == pytest.approx(
        [-0.75 * math.log(p) - 0.25 * math.log(1 - p) for p in sigmoid]
    )
    assert preference_loss(chosen, rejected, 0.25, kind="ipo").tolist() == [
        1.0,
        16.0,
        4.0,
    ]  # (difference - 2)^2
    huge = torch.tensor([-1e6], requires_grad=True)
    loss = preference_loss(huge, -huge, 1.0)
    assert loss.item() == 2e6 and torch.autograd.grad(loss, huge)[0].item() == -2.0  # no overflow


def test_fast_steps_have_the_losses_of_plain_ones(
    ours: Llama, tmp_path: Path, env: DistributedEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 steps of trainer.py on packed rows against the textbook: all logits, a mask, clip_grad_norm_, plain AdamW."""
    monkeypatch.setattr(chunked_loss, "MIN_CHUNK_TOKENS", 50)  # so that there are several
    monkeypatch.setattr(chunked_loss, "MAX_CHUNK_LOGITS", 1)
    args = ours.args.replace(train="S", micro_batch_size=2, gradient_accumulation_steps=2, max_lr=3e-3)
    rows, plain = PackedRows(prepared(tmp_path, "instruct", SPEAKING), 160, seed=0), deepcopy(ours)
    optimizers, scaler = build_optimizers(ours, args), torch.amp.GradScaler("cpu", enabled=False)
    is_decayed = {p: p.dim() == 2 and "embed" not in name for name, p in plain.named_parameters()}
    groups = [
        {
            "params": [p for p in is_decayed if is_decayed[p] == decays],
            "weight_decay": args.weight_decay_optim * decays,
        }
        for decays in (True, False)
    ]
    textbook = torch.optim.AdamW(groups, lr=args.max_lr, betas=(args.beta_1, args.beta_2), foreach=False)
    mine, theirs, norms = [], [], []
    loaders = [Loader(rows, 2, 0, 1) for _ in range(2)]
    for _ in range(50):
        means = train_step(next_token, ours, optimizers, scaler, loaders[0], args, env).means
        mine.append(means["loss"])
        norms.append(means["grad_norm"])
        batches = [loaders[1].next() for _ in range(2)]
        assert all(batch.segments is not None and batch.loss_positions is not None for batch in batches)
        nats = [
            F.cross_entropy(
                plain(batch.tokens, batch.doc_ids).flatten(0, 1),
                batch.labels.flatten(),
                ignore_index=IGNORE,
                reduction="sum",
            )
            for batch in batches
        ]
        loss = sum(nats) / sum((batch.labels != IGNORE).sum() for batch in batches)
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), args.clip)
        textbook.step()
        textbook.zero_grad()
        theirs.append(loss.item())
    assert mine[-1] < 0.5 * mine[0] and max(norms) > args.clip
    assert max(abs(a - b) / b for a, b in zip(mine, theirs, strict=True)) < 1e-5
