"""A pretraining step: 48M parameters (width 512, 8 layers, 8/2 heads, GPT-2's vocabulary), 2 x 512 tokens, AdamW, clip.

    python benchmarks/pretraining.py --python litgpt=PATH "litgpt compiled=PATH"        requirements-litgpt.txt

All make the same update: gradients clipped at norm 1, AdamW in one kernel, float32, all threads. "whole run" is
trainer.py as a command, by the speed that it writes into its metrics: the step, and all that is around it. Those called
bfloat16 compute matrix products in it (autocast), which is slow on a CPU without instructions for it.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from harness import ROOT, Figures, main, median_rate
from torch import Tensor, nn

sys.path.insert(0, str(ROOT))

ROWS, T, VOCABULARY = 2, 512, 50304
SIZES = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1408,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": T,
}


def ours(dtype: str = "float32") -> Figures:
    """trainer.py's own step, batches included."""
    from config import ModelArgs
    from dataloader.loader import Loader
    from model import Llama, flops_per_token
    from runtime import distributed
    from trainer import train_step
    from training.objectives import next_token
    from training.optimizers import build_optimizers

    args = ModelArgs(
        hidden_dims=1408,
        dropout=0.0,
        attn_dropout=0.0,
        device="cpu",
        dtype=dtype,
        micro_batch_size=ROWS,
        gradient_accumulation_steps=1,
    )
    env = distributed.init("cpu", dtype)
    torch.manual_seed(0)
    model = Llama(args)
    optimizers, scaler = build_optimizers(model, args), torch.amp.GradScaler("cpu", enabled=False)
    loader = Loader(RandomRows(), ROWS, 0, 1)
    rate = median_rate(lambda: train_step(next_token, model, optimizers, scaler, loader, args, env), ROWS * T)
    return {"rate": rate, "gflops": rate * flops_per_token(args) / 1e9}


class RandomRows:
    """Rows of one document each, of random ids."""

    seed = 0

    def __len__(self) -> int:
        return 1 << 20

    def at(self, index: int, epoch: int = 0):
        import numpy as np

        from dataloader.batch import Row

        tokens = np.random.default_rng(index).integers(0, VOCABULARY, T + 1)
        return Row(tokens[:-1], tokens[1:], np.zeros(T, np.int64))


def whole_run() -> Figures:
    """A run of trainer.py with this model on bytes of a text, its vocabulary as large as the others'."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text("".join(random.Random(0).choices("abcdefgh ", k=200_000)))
        places = ["--data_dir", folder]
        subprocess.run(
            [
                sys.executable,
                ROOT / "data.py",
                "--files",
                Path(folder) / "text.txt",
                "--name",
                "letters",
                "--tokenizer",
                "bytes",
                *places,
            ],
            check=True,
            stdout=sys.stderr,
        )
        settings = dict(
            hidden_dims=1408,
            vocab_size=VOCABULARY,
            dropout=0,
            attn_dropout=0,
            device="cpu",
            micro_batch_size=ROWS,
            gradient_accumulation_steps=1,
            total_iters=12,
            eval_check=1,
            save_checkpoint_dir=folder,
            run_name="run",
            wandb="disabled",
            max_length=1,
        )
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, ROOT / "trainer.py", *flags, *places], check=True, stdout=sys.stderr)
        rows = map(json.loads, (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines())
        return {
            "rate": statistics.median(
                [row["tokens_per_second"] for row in rows if row["split"] == "train"][2:]
            )
        }


def litgpt(compiled: bool, dtype: torch.dtype = torch.float32) -> Figures:
    """litgpt's GPT with the same sizes, tied."""
    from litgpt import GPT, Config

    torch.manual_seed(0)
    model = GPT(
        Config(
            block_size=T,
            n_layer=8,
            n_embd=512,
            padded_vocab_size=VOCABULARY,
            vocab_size=VOCABULARY,
            n_head=8,
            n_query_groups=2,
            intermediate_size=1408,
            norm_class_name="RMSNorm",
            bias=False,
            mlp_class_name="LLaMAMLP",
            rotary_percentage=1.0,
            parallel_residual=False,
        )
    )
    model.lm_head.weight = model.transformer.wte.weight
    return plain_step(torch.compile(model) if compiled else model, model, dtype)


def transformers() -> Figures:
    """transformers' LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, use_cache=False))
    return plain_step(lambda tokens: model(tokens).logits, model)


def plain_step(
    logits: Callable[[Tensor], Tensor], model: nn.Module, dtype: torch.dtype = torch.float32
) -> Figures:
    """The usual step: all logits, mean cross-entropy, clip_grad_norm_, fused AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step() -> None:
        tokens = torch.randint(VOCABULARY, (ROWS, T + 1))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return {"rate": median_rate(step, ROWS * T)}


if __name__ == "__main__":
    main(
        "tokens/s",
        {
            "smolllama": ours,
            "whole run": whole_run,
            "litgpt compiled": lambda: litgpt(True),
            "litgpt": lambda: litgpt(False),
            "transformers": transformers,
            "smolllama bfloat16": lambda: ours("bfloat16"),
            "litgpt compiled bfloat16": lambda: litgpt(True, torch.bfloat16),
        },
    )
