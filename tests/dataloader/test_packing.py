"""Packing against the textbook's first-fit decreasing, and truncation against its rules."""

import numpy as np
import pytest
from token_rows import token_conversation

from dataloader.packing import Document, first_fit_decreasing, truncate_to_context


def naive_first_fit_decreasing(sizes: list[int], room: int) -> list[list[int]]:
    """Pack one item after the other."""
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
        largest = max(2, room // (1 + seed % 3)) + (room > 1)
        sizes = np.minimum(np.random.default_rng(seed).integers(1, largest, count), room)
        rows = first_fit_decreasing(sizes, room)
        assert rows
        assert [row.tolist() for row in rows] == naive_first_fit_decreasing(sizes.tolist(), room)


def check_truncation(answers: list[Document], room: int) -> list[Document]:
    """Return answers to one prompt truncated, after checking them against the rules."""
    truncated = truncate_to_context(answers, room)
    starts = [len(mask) - int((~mask[::-1]).argmax()) for _, mask in answers]  # of the last responses
    longest = max(len(ids) - start for (ids, _), start in zip(answers, starts, strict=True))

    for (ids, mask), (kept_ids, kept_mask), start in zip(answers, truncated, starts, strict=True):
        first = int(np.flatnonzero(ids == kept_ids[0])[0])

        # It is one piece of the answer, it fits, and a part of both prompt and response is left.
        assert np.array_equal(kept_ids, ids[first : first + len(kept_ids)])
        assert np.array_equal(kept_mask, mask[first : first + len(kept_ids)])
        assert len(kept_ids) <= room
        assert first < start
        assert kept_mask[start - first :].any()

        if start + longest <= room:
            assert first == 0, "an answer that fits is not truncated"
        elif room >= longest + min(start, room // 2):
            assert len(ids) - start == len(kept_ids) - (start - first), "the prompt alone is truncated"
        if first:
            assert start - first == max(room - longest, min(start, room // 2)), "no more of it than needed"
        if first + len(kept_ids) < len(ids):
            assert len(kept_ids) == room
            assert start - first == min(start, room // 2)
    return truncated


def test_the_oldest_prompt_tokens_go_first_then_the_end_of_the_response() -> None:
    def kept(prompt: int, response: int, room: int) -> tuple[int, int]:
        ((_, mask),) = check_truncation([token_conversation(0, prompt, response)], room)
        return int((~mask).sum()), int(mask.sum())

    assert kept(6, 4, 10) == (6, 4)
    assert kept(9, 4, 10) == (6, 4)  # the oldest part of the prompt
    assert kept(9, 7, 10) == (5, 5)  # down to half the room, then the end of the response
    assert kept(3, 9, 10) == (3, 7)  # a short prompt stays complete
    assert kept(9, 9, 2) == (1, 1)


def test_an_answer_that_fits_stays_complete_beside_a_longer_conversation() -> None:
    short = token_conversation(0, 20, 10)
    long = token_conversation(0, 80, 10)
    truncated = truncate_to_context([short, long], 40)
    assert np.array_equal(truncated[0][0], short[0])
    assert np.array_equal(truncated[1][0], long[0][50:])


def test_of_several_turns_the_oldest_go_first() -> None:
    ids = np.arange(20)
    mask = np.isin(np.arange(20), [4, 5, 6, 15, 16, 17, 18, 19])
    for room in (20, 17, 14, 10):
        ((kept_ids, kept_mask),) = check_truncation([(ids, mask)], room)
        assert kept_ids.tolist() == list(range(20 - room, 20))
        assert kept_mask.tolist() == mask[20 - room :].tolist()


def test_a_conversation_of_loss_alone_loses_its_end() -> None:
    ids = np.arange(20)
    ((kept_ids, _),) = truncate_to_context([(ids, np.ones(20, bool))], 12)
    assert kept_ids.tolist() == list(range(12))


def test_random_conversations_and_pairs_follow_the_rules() -> None:
    random = np.random.default_rng(0)
    cases = set()
    for _ in range(2000):
        prompt = random.integers(1, 30)
        room = random.integers(2, 40)
        chosen = token_conversation(0, prompt, random.integers(1, 30))
        rejected = token_conversation(0, prompt, random.integers(1, 30))

        for answers in ([chosen], [chosen, rejected]):
            truncated = check_truncation(answers, room)
            firsts = {int(ids[0]) for ids, _ in truncated}
            assert len(firsts) == 1, "the answers of a pair keep the same prompt"

            (first,) = firsts
            lost_end = any(
                len(kept_ids) < len(ids) - first
                for (kept_ids, _), (ids, _) in zip(truncated, answers, strict=True)
            )
            cases.add((first > 0, lost_end))
    assert cases == {(False, False), (True, False), (False, True), (True, True)}
