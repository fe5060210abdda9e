"""Decoding of several shapes by a library that was built with sanitizers: python sanitized_decoding.py LIBRARY.

Runs in a process of its own, whose allocator is the sanitizer's: every weight, cache and result has guarded ends.
"""

import ctypes
import sys

import torch

from config import ModelArgs
from generation.cpu_decoder import CPUDecoder, quantize
from model import Llama

ROOM = 5  # tokens in the cache, all of which are used
SHAPES = {
    "grouped heads": dict(embeddings_dims=32, no_of_heads=4, no_kv_heads=2, hidden_dims=48, vocab_size=96),
    "head_dim 20": dict(embeddings_dims=18, no_of_heads=6, no_kv_heads=1, head_dim=20, vocab_size=33),
    "odd sizes": dict(
        embeddings_dims=15, no_of_heads=3, no_kv_heads=3, head_dim=2, hidden_dims=7, vocab_size=5
    ),
    "wide, untied": dict(
        embeddings_dims=130, no_of_heads=2, no_kv_heads=1, head_dim=66, vocab_size=257, tie_embeddings=False
    ),
}


def check_decoding(shape: dict, library: ctypes.CDLL, int8: bool, threads: int) -> None:
    """Decode up to the last place of a cache, and compare the last logits with torch's."""
    torch.manual_seed(0)
    args = ModelArgs(**shape, block_size=ROOM, no_of_decoder_layers=2, dropout=0.0, attn_dropout=0.0)
    model = Llama(args).eval()
    if int8:
        quantize(model)
    library.omp_set_num_threads(threads)
    assert library.omp_get_max_threads() == threads

    decode = CPUDecoder(model, library)
    cache = model.new_cache(1, ROOM)
    tokens = [args.vocab_size - 1 - n for n in range(ROOM)]
    for position, token in enumerate(tokens):
        logits = decode(token, position, cache.keys, cache.values)
    expected = model(torch.tensor([tokens]))[0, -1]
    assert (logits[0] - expected).abs().max() < 1e-2 * expected.abs().max()


if __name__ == "__main__":
    decoder = ctypes.CDLL(sys.argv[1])
    cases = [(name, int8, threads) for name in SHAPES for int8 in (False, True) for threads in (1, 2)]
    with torch.inference_mode():
        for name, int8, threads in cases:
            check_decoding(SHAPES[name], decoder, int8, threads)
    print(f"{len(cases)} cases")
