"""Rows and their order: every token once, the same on any number of ranks, one integer as the whole position."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from config import IGNORE
from dataloader.batch import Batch
from dataloader.loader import (
    Loader,
    PackedRows,
    PairRows,
    StreamRows,
    StreamValidation,
    best_fit_decreasing,
    feistel_shuffle,
    fixed_batches,
    keyed_hash,
    truncate_to_context,
)
from dataprep.shards import TokenDataset
from runtime.errors import UserError


@pytest.fixture
def store(make_store: Callable[..., TokenDataset]) -> TokenDataset:
    """1,003 tokens, each its own position, in three shards that end inside rows."""
    return make_store(
        [[np.arange(0, 300), np.arange(300, 333)], [np.arange(333, 350)], [np.arange(350, 1003)]]
    )


def flat(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and labels of all batches, one row below the other."""
    return tuple(torch.cat(column).numpy() for column in list(zip(*batches, strict=True))[:2])


def test_shuffled_is_a_bijection() -> None:
    for size in (*range(1, 201), 1023, 1024, 1025, 20_011):
        assert sorted(feistel_shuffle(n, size, keyed_hash(size)) for n in range(size)) == list(range(size))
    huge = [feistel_shuffle(n, 20_000_003, keyed_hash("key")) for n in range(3000)]
    assert len(set(huge)) == 3000 and 0 <= min(huge) < 100_000 and 19_900_000 < max(huge) < 20_000_003


def test_shuffled_differs_by_key() -> None:
    orders = [[feistel_shuffle(n, 1000, keyed_hash(key)) for n in range(1000)] for key in range(4)]
    for i, order in enumerate(orders):
        for other in (list(range(1000)), *orders[:i]):
            assert sum(a == b for a, b in zip(order, other, strict=True)) < 10  # about one by chance
        neighbours = sum(abs(a - b) == 1 for a, b in zip(order, order[1:], strict=False))
        assert neighbours < 12  # about two by chance


@pytest.mark.parametrize("size", [13, 16, 30])
def test_shuffled_looks_uniform(size: int) -> None:
    counts = np.zeros((size, size))  # how often n stands at a place
    for key in range(200 * size):
        key = keyed_hash("chi", key)
        for n in range(size):
            counts[n, feistel_shuffle(n, size, key)] += 1
    chi_square, freedom = ((counts - 200) ** 2 / 200).sum(), (size - 1) ** 2
    assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5  # six deviations


@pytest.mark.parametrize("T", [10, 17, 59])  # 1003 = 17 * 59: with these, rows use up every token
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_has_every_token_once(store: TokenDataset, T: int, epoch: int) -> None:
    rows = StreamRows(store, T, seed=3)
    assert len(rows) == 1003 // T
    cut = [rows[n] for n in range(epoch * len(rows), (epoch + 1) * len(rows))]
    tokens, labels = (np.concatenate([row[part] for row in cut]) for part in (0, 1))
    assert len(set(tokens.tolist())) == len(tokens) == 1003 // T * T
    assert np.array_equal(labels, (tokens + 1) % 1003)  # across shards, and from the end to the start
    starts = [row[0][0] for row in cut]
    assert starts != sorted(starts)
    crossing = [
        row for row, *_ in cut if {299, 300} <= set(row) or {332, 333} <= set(row) or {349, 350} <= set(row)
    ]
    assert crossing, "no row crosses the border of a document or shard"
    assert 1003 % T or 0 in labels


def test_epochs_differ_in_order_and_cuts(store: TokenDataset) -> None:
    rows = StreamRows(store, 10, seed=3)
    starts = [[int(rows[n][0][0]) for n in range(e * 100, (e + 1) * 100)] for e in range(4)]
    assert len({start[0] % 10 for start in starts}) > 1 and starts[0][0] % 10 == 0
    assert len({tuple(np.argsort(start)) for start in starts}) == 4
    other = StreamRows(store, 10, seed=4)
    assert [int(other[n][0][0]) for n in range(100)] != starts[0]
    again = StreamRows(store, 10, seed=3)
    assert [int(again[n][0][0]) for n in range(100)] == starts[0]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_order(store: TokenDataset, world: int) -> None:
    rows = StreamRows(store, 10, seed=3)
    alone = Loader(rows, 8, rank=0, world_size=1)
    ranks = [Loader(rows, 8 // world, rank, world) for rank in range(world)]
    for _ in range(30):  # two epochs and a half, whose ends lie inside batches
        tokens, labels = flat([alone.next()])
        together, their_labels = flat([loader.next() for loader in ranks])
        assert np.array_equal(tokens, together) and np.array_equal(labels, their_labels)
    assert {loader.cursor for loader in (alone, *ranks)} == {240}


def test_the_cursor_is_the_whole_position(store: TokenDataset) -> None:
    rows = StreamRows(store, 10, seed=3)
    loader = Loader(rows, 3, rank=0, world_size=1)
    passed = [loader.next() for _ in range(37)]
    assert len(rows) < loader.cursor < 2 * len(rows)  # in the middle of the second epoch
    resumed = Loader(StreamRows(store, 10, seed=3), 3, 0, 1, loader.cursor)
    for _ in range(40):
        ours, theirs = loader.next(), resumed.next()
        assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.labels, theirs.labels)
    assert not torch.equal(passed[0].tokens, Loader(rows, 3, 0, 1, 3).next().tokens)


def test_a_batch_is_what_the_contract_says(store: TokenDataset) -> None:
    batch = Loader(StreamRows(store, 10, seed=3), 4, 0, 1).next().to(torch.device("cpu"))
    assert batch.tokens.shape == batch.labels.shape == (4, 10) and batch.doc_ids is None
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])


def test_rows_name_the_document_of_each_token(make_store: Callable[..., TokenDataset]) -> None:
    store = make_store([[[5, 6, 0], [7, 0], [8, 9, 9, 9, 9, 9, 9, 9, 9, 0]]], eos_id=0)
    (batch,) = fixed_batches(StreamValidation(store, 7, 0), 4, 0, 1)
    assert batch.tokens.tolist() == [[5, 6, 0, 7, 0, 8, 9], [9, 9, 9, 9, 9, 9, 9]]
    assert batch.doc_ids.tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0]]
    (alone,) = fixed_batches(
        StreamValidation(make_store([[[5, 6, 7, 8, 0]]], "val", eos_id=0), 4, 0), 4, 0, 1
    )
    assert alone.doc_ids is None  # one document: plain causal attention, which is faster


@pytest.mark.parametrize("T", [10, 17, 333, 1002, 2000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_counts_every_token_once(store: TokenDataset, T: int, world: int) -> None:
    shares = [list(fixed_batches(StreamValidation(store, T, 0), 4, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # no rank waits for another
    tokens, labels = flat([batch for share in shares for batch in share])
    counted = labels != IGNORE
    assert sorted(labels[counted].tolist()) == list(range(1, 1003))  # all but the first
    assert np.array_equal(labels[counted], tokens[counted] + 1)
    assert tokens.shape[1] == T and all(len(batch.tokens) <= 4 for share in shares for batch in share)


def test_limited_validation_is_fixed_and_spread(store: TokenDataset) -> None:
    starts = [
        flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=20)))[0][:, 0]
        for _ in range(2)
    ]
    assert np.array_equal(*starts) and len(starts[0]) == 20
    assert starts[0].tolist() == list(range(0, 1000, 50))  # of the rows 0, 10, ... 1000
    uneven = flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=24)))[0][:, 0]
    assert len(uneven) == 24 and uneven[-1] > 950 and set(np.diff(uneven)) == {40, 50}
    for world in (2, 3):
        rows = StreamValidation(store, 10, 0)
        shares = [list(fixed_batches(rows, 4, rank, world, limit=20)) for rank in range(world)]
        tokens, labels = flat([batch for share in shares for batch in share])
        assert (
            sorted(tokens[(labels != IGNORE).any(1), 0]) == starts[0].tolist()
        )  # the same rows on any ranks
    whole = flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1)))
    assert np.array_equal(
        flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=10**6)))[0], whole[0]
    )


def test_too_little_text_is_a_users_error(make_store: Callable[..., TokenDataset]) -> None:
    store = make_store([[np.arange(10)]])
    assert len(StreamRows(store, 9, seed=0)) == 1
    with pytest.raises(UserError, match="10 tokens.* --block_size 10 "):
        StreamRows(store, 10, seed=0)
    with pytest.raises(UserError, match="val set .* 1 tokens"):
        next(fixed_batches(StreamValidation(make_store([[np.arange(1)]], "val"), 4, 0), 1, 0, 1))


def test_large_vocabularies_are_read(make_store: Callable[..., TokenDataset]) -> None:
    store = make_store([[np.arange(70_000, 70_050)]], vocab_size=70_050)
    tokens, labels, *_ = StreamRows(store, 10, seed=0)[0]
    assert np.array_equal(labels, tokens + 1) and tokens.min() >= 70_000 and tokens.dtype == np.int64


# --- packing ---------------------------------------------------------------------------------------------------------


def naive_first_fit_decreasing(sizes: list[int], room: int) -> list[list[int]]:
    """The same, one item after the other."""
    rows: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        for row in rows:
            if sum(sizes[other] for other in row) + sizes[item] <= room:
                row.append(item)
                break
        else:
            rows.append([item])
    return [sorted(row) for row in rows]


@pytest.mark.parametrize("room", [1, 2, 7, 32, 100])
@pytest.mark.parametrize("count", [1, 2, 30, 150])
def test_first_fit_decreasing_is_the_textbooks(room: int, count: int) -> None:
    for seed in range(10):
        sizes = np.random.default_rng(seed).integers(1, max(2, room // (1 + seed % 3)) + (room > 1), count)
        assert (rows := best_fit_decreasing(np.minimum(sizes, room), room))
        assert [row.tolist() for row in rows] == naive_first_fit_decreasing(
            np.minimum(sizes, room).tolist(), room
        )


Talk = tuple[np.ndarray, np.ndarray]


def talk(start: int, prompt: int, response: int) -> Talk:
    """A conversation of ids that count from `start`, its response learned."""
    return np.arange(start, start + prompt + response), np.arange(prompt + response) >= prompt


def check_fit(given: list[Talk], room: int) -> list[Talk]:
    """What `truncate_to_context` leaves of answers to one prompt, which must be what its rules say."""
    made = truncate_to_context(given, room)
    starts = [len(keep) - int((~keep[::-1]).argmax()) for _, keep in given]  # of the last responses
    longest = max(len(ids) - start for (ids, _), start in zip(given, starts, strict=True))
    for (ids, keep), (left, learned), start in zip(given, made, starts, strict=True):
        first = int(np.flatnonzero(ids == left[0])[0])
        assert (
            np.array_equal(left, ids[first : first + len(left)]) and len(left) <= room
        )  # a piece of it that fits
        assert np.array_equal(learned, keep[first : first + len(left)])
        assert first < start and learned[start - first :].any(), "no response is left, or none of its prompt"
        if start + longest <= room:
            assert first == 0  # what fits is not cut
        elif start + longest > room >= longest + min(start, room // 2):
            assert len(ids) - start == len(left) - (start - first)  # the prompt alone is cut
        if first:
            assert start - first == max(
                room - longest, min(start, room // 2)
            )  # and no more of it than must be
        if first + len(left) < len(ids):
            assert len(left) == room and start - first == min(start, room // 2)
    return made


def test_what_is_too_long_loses_its_oldest_part_then_its_end() -> None:
    def left(prompt: int, response: int, room: int) -> tuple[int, int]:
        ((ids, keep),) = check_fit([talk(0, prompt, response)], room)
        return int((~keep).sum()), int(keep.sum())

    assert left(6, 4, 10) == (6, 4)
    assert left(9, 4, 10) == (6, 4)  # the prompt's oldest part
    assert left(9, 7, 10) == (5, 5)  # down to half the room, then the response's end
    assert left(3, 9, 10) == (3, 7)  # a short prompt stays whole
    assert left(9, 9, 2) == (1, 1)


def test_an_answer_that_fits_is_whole_beside_a_longer_conversation() -> None:
    short, long = talk(0, 20, 10), talk(0, 80, 10)
    made = truncate_to_context([short, long], 40)
    assert np.array_equal(made[0][0], short[0]) and np.array_equal(made[1][0], long[0][50:])


def test_several_turns_lose_the_oldest_first() -> None:
    ids, keep = np.arange(20), np.isin(np.arange(20), [4, 5, 6, 15, 16, 17, 18, 19])
    for room in (20, 17, 14, 10):
        ((left, learned),) = check_fit([(ids, keep)], room)
        assert left.tolist() == list(range(20 - room, 20)) and learned.tolist() == keep[20 - room :].tolist()


def test_random_conversations_and_pairs_are_cut_by_the_rules() -> None:
    random, cuts = np.random.default_rng(0), set()
    for _ in range(2000):
        prompt, room = random.integers(1, 30), random.integers(2, 40)
        chosen, rejected = (talk(0, prompt, random.integers(1, 30)) for _ in range(2))
        for given in ([chosen], [chosen, rejected]):
            made = check_fit(given, room)
            assert len({int(ids[0]) for ids, _ in made}) == 1  # the answers of a pair keep the same prompt
            first, last = (
                made[0][0][0] > 0,
                any(len(a) < len(b) - int(a[0]) for (a, _), (b, _) in zip(made, given, strict=True)),
            )
            cuts.add((bool(first), bool(last)))
    assert cuts == {(False, False), (True, False), (False, True), (True, True)}


def conversations_of_unique_ids(count: int) -> tuple[list[Talk], np.ndarray]:
    """Conversations in which no id comes twice, some of several turns, and the ids that are learned, in order."""
    random, made, start = np.random.default_rng(1), [], 1
    for number in range(count):
        ids, keep = talk(start, random.integers(1, 12), random.integers(1, 9))
        if number % 3 == 0:
            keep = np.concatenate([keep, [False, False], [True] * (1 + number % 4)])
            ids = np.arange(start, start + len(keep))
        made.append((ids, keep))
        start = int(ids[-1]) + 2  # a gap, so that no id follows one of another conversation
    return made, np.concatenate([ids[keep] for ids, keep in made])


@pytest.mark.parametrize("T", [24, 40, 200])
def test_every_learned_token_is_a_label_once_an_epoch(
    make_store: Callable[..., TokenDataset], T: int
) -> None:
    talks, learned = conversations_of_unique_ids(100)
    rows = PackedRows(make_store([talks[:60], talks[60:]], kind="instruct"), T, seed=3)
    assert rows.notes == [] and len(rows) < sum(len(ids) for ids, _ in talks) / T + 2  # packed tight
    cut = [rows[n] for n in range(3 * len(rows))]
    orders = []
    for epoch in range(3):
        its = cut[epoch * len(rows) : (epoch + 1) * len(rows)]
        tokens, labels = (np.concatenate([row[part] for row in its]) for part in (0, 1))
        has_label = labels != IGNORE
        assert sorted(labels[has_label].tolist()) == learned.tolist()
        assert np.array_equal(
            labels[has_label], tokens[has_label] + 1
        )  # shifted, and never the next conversation's
        assert sorted(tokens[tokens > 0].tolist()) == [t for ids, _ in talks for t in ids[:-1].tolist()]
        orders.append([int(row.tokens[0]) for row in its])
    assert len({tuple(order) for order in orders}) == 3
    several = 0
    for row in cut:
        for number in set(row.doc_ids.tolist()):
            its = row.tokens[row.doc_ids == number]
            one_conversation = np.arange(its[0], its[0] + len(its))
            assert np.array_equal(its, one_conversation) or not its.any()
        several += len(set(row.doc_ids.tolist())) > 2
    assert several > 10 and any(not row.tokens.all() for row in cut)


def test_the_end_of_a_response_is_learned_and_a_cut_is_said(make_store: Callable[..., TokenDataset]) -> None:
    talks = [talk(10, 5, 4), talk(100, 30, 4), talk(200, 3, 30)]
    rows = PackedRows(make_store([talks], kind="instruct"), 16, seed=0)
    assert (
        len(rows.notes) == 1
        and "2 of 3 conversations in the train set are longer than a row" in rows.notes[0]
    )
    labels = [
        label for place in range(len(rows)) for label in rows.at(place).labels.tolist() if label != IGNORE
    ]
    assert sorted(labels) == [*range(15, 19), *range(130, 134), *range(203, 217)]


def batches_of(rows, ranks: int, B: int, count: int) -> list[list[Batch]]:
    """The next batches of each rank."""
    loaders = [Loader(rows, B // ranks, rank, ranks) for rank in range(ranks)]
    return [[loader.next() for _ in range(count)] for loader in loaders]


# --- preference pairs ------------------------------------------------------------------------------------------------


def pairs_of_unique_ids(count: int) -> list[tuple[Talk, Talk]]:
    """Pairs whose answers begin alike for 0 to 2 tokens; no id is in two pairs, nor in two places of one."""
    random, made = np.random.default_rng(2), []
    for number in range(count):
        start, prompt, common = 1000 * (number + 1), random.integers(1, 12), number % 3
        answers = []
        for side in range(2):
            ids, keep = talk(start, prompt, common + random.integers(1, 9))
            ids[prompt + common :] += 300 * (1 + side)
            answers.append((ids, keep))
        made.append(tuple(answers))
    return made


def pair_rows(
    make_store: Callable[..., TokenDataset], pairs: list[tuple[Talk, Talk]], T: int, **options
) -> PairRows:
    return PairRows(
        make_store([[talk for pair in pairs for talk in pair]], kind="preference", **options), T, seed=3
    )


@pytest.mark.parametrize("T", [24, 60])
def test_a_pair_is_its_prompt_once_and_its_answers_as_branches(
    make_store: Callable[..., TokenDataset], T: int
) -> None:
    pairs = pairs_of_unique_ids(60)
    rows = pair_rows(make_store, pairs, T)
    rows.reference = np.arange(120, dtype=np.float32).reshape(60, 2)
    found, shared = set(), 0
    for n in range(len(rows)):
        row = rows[n]
        assert row.tokens.shape == (2 * T,) and row.positions.max() < T
        for number in range(len(row.reference) // 2):
            here = row.doc_ids == number
            pair = int(row.tokens[here][0]) // 1000 - 1
            found.add(pair)
            assert row.reference[2 * number : 2 * number + 2].tolist() == [2 * pair, 2 * pair + 1]
            assert (row.labels[here & (row.branches == 0)] == IGNORE).all()
            for branch, (ids, keep) in enumerate(pairs[pair], 1):
                seen = here & np.isin(row.branches, [0, branch])
                assert np.array_equal(row.tokens[seen], ids[:-1])
                assert np.array_equal(row.positions[seen], np.arange(len(ids) - 1))
                assert np.array_equal(
                    row.labels[seen & (row.branches == branch)],
                    np.where(keep, ids, IGNORE)[1 + (here & (row.branches == 0)).sum() :],
                )
                assert (row.labels[seen] != IGNORE).sum() == keep.sum()
            shared += (here & (row.branches == 0)).sum()
    assert found == set(range(60)) and rows.notes == []
    assert shared == sum((~keep).sum() - 1 for (_, keep), _ in pairs)  # the last of the prompt has two labels


def test_a_batch_of_pairs_names_the_owner_of_each_label(make_store: Callable[..., TokenDataset]) -> None:
    pairs = pairs_of_unique_ids(30)
    rows = pair_rows(make_store, pairs, 30)
    rows.reference = np.arange(60, dtype=np.float32).reshape(30, 2)
    batch = Loader(rows, 3, 0, 1).next()
    tokens, labels = (part.flatten()[batch.loss_positions].numpy() for part in (batch.tokens, batch.labels))
    assert batch.labels.shape == (3, 60) and len(batch.reference) > 6 and (labels != IGNORE).all()
    for completion, number in enumerate(batch.reference.long().tolist()):
        ids, keep = pairs[number // 2][number % 2]
        assert labels[batch.completion_index.numpy() == completion].tolist() == ids[keep].tolist()
        assert tokens[batch.completion_index.numpy() == completion].tolist() == ids[:-1][keep[1:]].tolist()
    assert batch.completion_index.max() + 1 == len(batch.reference)
    (whole,) = fixed_batches(rows, 100, 0, 1)
    assert sorted(whole.reference.tolist()) == list(range(60))


def test_pairs_that_a_context_makes_equal_are_left_out(make_store: Callable[..., TokenDataset]) -> None:
    def pair(start: int, same: int) -> tuple[Talk, Talk]:
        chosen, rejected = talk(start, 4, 30), talk(start, 4, 20)
        rejected[0][4 + same :] += 500
        return chosen, rejected

    pairs = [pair(1000, 0), pair(2000, 15), pair(3000, 5), pair(4000, 11), pair(5000, 12)]
    rows = pair_rows(make_store, pairs, 15)  # 16 tokens: 12 of each answer
    kept = sorted(number for members in rows.members for number in members.tolist())
    assert kept == [0, 2, 3]
    assert "10 of 10 answers in the train set are longer" in rows.notes[0] and rows.notes[1].startswith(
        "2 pairs are"
    )
    (batch,) = fixed_batches(rows, 8, 0, 1)
    assert len(batch.reference) == 6 and set(batch.completion_index.tolist()) == set(range(6))
    with pytest.raises(UserError, match="no pair of the val set in .* differs within --block_size 15 "):
        pair_rows(make_store, [pairs[1], pairs[4]], 15, split="val")


@pytest.mark.parametrize("kind", ["instruct", "preference"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_order_of_packed_rows(
    make_store: Callable[..., TokenDataset], kind: str, world: int
) -> None:
    if kind == "instruct":
        rows = PackedRows(make_store([conversations_of_unique_ids(100)[0]], kind=kind), 24, seed=3)
    else:
        rows = pair_rows(make_store, pairs_of_unique_ids(60), 24)
        rows.reference = np.arange(120, dtype=np.float32).reshape(60, 2)
    (alone,), ranks = batches_of(rows, 1, 8, 8), batches_of(rows, world, 8, 8)
    assert 8 * 8 > len(rows)  # over the end of an epoch
    for number, batch in enumerate(alone):
        shares = [share[number] for share in ranks]
        for name in ("tokens", "labels", "doc_ids", "branches", "positions", "reference"):
            if (whole := getattr(batch, name)) is not None:
                assert torch.equal(whole, torch.cat([getattr(share, name) for share in shares]))
        if kind == "preference":
            offsets = np.cumsum([0, *(len(share.reference) for share in shares)])
            completion_index = [
                share.completion_index + offset
                for share, offset in zip(shares, offsets.tolist(), strict=False)
            ]
            assert torch.equal(batch.completion_index, torch.cat(completion_index))
    for B in (1, 3, 4):  # in validation every row once, whoever takes it; a rank without one counts nothing
        shares = [list(fixed_batches(rows, B, rank, world)) for rank in range(world)]
        labels = torch.cat([batch.labels for share in shares for batch in share])
        whole = torch.cat([batch.labels for batch in fixed_batches(rows, B, 0, 1)])
        assert len({len(share) for share in shares}) == 1
        assert sorted(labels[labels != IGNORE].tolist()) == sorted(whole[whole != IGNORE].tolist())
        assert kind == "instruct" or sum(len(batch.reference) for share in shares for batch in share) == 120
