"""Conversations of the lengths that real ones have, without a text: for the benchmarks of fine-tuning and alignment.

Lengths in GPT-2 tokens are drawn from log-normal distributions whose means and deviations of the logarithm are those of
500 rows of Alpaca-cleaned and of 150 pairs of UltraFeedback-binarized, cut to 512 tokens as trainers cut them.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

T, VOCABULARY, LETTERS = 512, 50304, 256
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 704,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": T,
}
Conversation = tuple[np.ndarray, ...]  # ids of the prompt, then of each response


def _ids(rng: np.random.Generator, mean: float, deviation: float, most: int) -> np.ndarray:
    return rng.integers(0, LETTERS, int(np.clip(rng.lognormal(mean, deviation), 4, most)))


def instructions(count: int) -> list[Conversation]:
    """(prompt, response) as in Alpaca."""
    rng = np.random.default_rng(0)
    prompts = [_ids(rng, 3.29, 0.35, T // 2) for _ in range(count)]
    return [(prompt, _ids(rng, 4.30, 1.35, T - len(prompt))) for prompt in prompts]


def preferences(count: int) -> list[Conversation]:
    """(prompt, chosen, rejected) as in UltraFeedback."""
    rng = np.random.default_rng(0)
    prompts = [_ids(rng, 4.69, 0.86, T // 2) for _ in range(count)]
    return [
        (prompt, _ids(rng, 5.55, 1.60, T - len(prompt)), _ids(rng, 5.83, 1.26, T - len(prompt)))
        for prompt in prompts
    ]


def store_of(folder: Path, kind: str, conversations: list[Conversation]):
    """A prepared dataset of them: a document for each response, with what comes before it."""
    from dataprep.shards import FORMAT, ShardWriter, TokenDataset, id_dtype
    from runtime.files import write_json

    writer = ShardWriter(folder, "train", 0, id_dtype(VOCABULARY), with_loss_mask=True)
    for prompt, *responses in conversations:
        for response in responses:
            ids = np.concatenate([prompt, response])
            writer.add(ids, np.arange(len(ids)) >= len(prompt), len(ids), is_complete=True)
    meta = {
        "format": FORMAT,
        "kind": kind,
        "splits": {"train": [writer.close()]},
        "tokenizer": {"vocab_size": VOCABULARY, "eos_id": VOCABULARY - 1},
    }
    write_json(folder / "meta.json", meta)
    return TokenDataset(folder, "train", meta)
