"""Fine-tuning on instructions as long as Alpaca's: width 256, 6 layers, GPT-2's vocabulary, 512 tokens, 8 rows a step.

    pip install -r benchmarks/requirements-trl.txt
    python benchmarks/finetuning.py

Only responses are learned. Counted are the tokens of conversations: padding is no work done.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Figures, main
from made import LETTERS, SIZES, T, instructions, store_of
from torch import nn

ROWS, STEPS = 8, 6
CONVERSATIONS = instructions(ROWS * STEPS)


def real_rate(seconds: list[float]) -> Figures:
    """Tokens a second over all conversations, the first step left out of the time and, by its share, of the tokens."""
    tokens = sum(len(ids) for conversation in CONVERSATIONS for ids in conversation)
    return {"rate": tokens * (len(seconds) - 1) / len(seconds) / sum(seconds[1:])}


def timed(step: Callable[[], object], times: int) -> list[float]:
    """The seconds of each step."""
    seconds = []
    for _ in range(times):
        t0 = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - t0)
    return seconds


def our_model(stage: str) -> tuple:
    """A Llama, its optimizers and scaler, its settings for a stage of the trainer, and the process."""
    from config import ModelArgs
    from model import Llama
    from runtime import distributed
    from training.optimizers import build_optimizers

    args = ModelArgs(
        train=stage,
        embeddings_dims=256,
        no_of_decoder_layers=6,
        no_of_heads=4,
        hidden_dims=704,
        block_size=T,
        dropout=0.0,
        attn_dropout=0.0,
        device="cpu",
        gradient_accumulation_steps=1,
    )
    torch.manual_seed(0)
    model = Llama(args)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return model, build_optimizers(model, args), scaler, args, distributed.init("cpu", "float32")


def ours() -> Figures:
    """trainer.py's own step on rows that are packed whole; 3 rows hold about 8 conversations."""
    from dataloader.loader import Loader
    from dataloader.rows import PackedRows
    from trainer import train_step
    from training.objectives import next_token

    model, *update, args, env = our_model("S")
    with tempfile.TemporaryDirectory() as folder:
        rows = PackedRows(store_of(Path(folder), "instruct", CONVERSATIONS), T, 0)
        at_a_time = max(1, round(len(rows) / STEPS))
        loader = Loader(rows, at_a_time, 0, 1)
        return real_rate(
            timed(
                lambda: train_step(next_token, model, *update, loader, args, env),
                round(len(rows) / at_a_time),
            )
        )


def llama() -> nn.Module:
    """transformers' model of the same sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, use_cache=False))


def padded() -> Figures:
    """transformers' model in the usual loop: rows padded to the longest of a batch, its own loss."""
    model = llama().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    batches = iter([CONVERSATIONS[first : first + ROWS] for first in range(0, len(CONVERSATIONS), ROWS)])

    def step() -> None:
        rows = [(torch.from_numpy(prompt), torch.from_numpy(response)) for prompt, response in next(batches)]
        pad = nn.utils.rnn.pad_sequence
        tokens = pad([torch.cat(row) for row in rows], batch_first=True)
        labels = pad(
            [torch.cat((torch.full_like(prompt, -100), response)) for prompt, response in rows],
            batch_first=True,
            padding_value=-100,
        )
        attended = pad(
            [torch.ones(len(prompt) + len(response)) for prompt, response in rows], batch_first=True
        )
        model(input_ids=tokens, labels=labels, attention_mask=attended).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return real_rate(timed(step, STEPS))


def trl(packing: bool, at_a_time: int = ROWS) -> Figures:
    """TRL's SFTTrainer with so many rows a step, in float32 and without recomputation."""
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [*prompt.tolist(), *response.tolist()],
            "completion_mask": [0] * len(prompt) + [1] * len(response),
        }
        for prompt, response in CONVERSATIONS
    ]
    with tempfile.TemporaryDirectory() as folder:
        options = SFTConfig(
            folder,
            per_device_train_batch_size=at_a_time,
            num_train_epochs=1,
            max_length=T,
            packing=packing,
            learning_rate=2e-4,
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            completion_only_loss=True,
        )
        clock = StepTimes()
        SFTTrainer(
            llama(),
            options,
            train_dataset=Dataset.from_list(rows),
            processing_class=letters(Path(folder)),
            callbacks=[
                type(
                    "Clock",
                    (transformers.TrainerCallback,),
                    {"on_step_begin": clock.begin, "on_step_end": clock.end},
                )()
            ],
        ).train()
        return real_rate(clock.seconds)


class StepTimes:
    """Times the steps of a transformers Trainer."""

    def __init__(self):
        self.seconds, self.t0 = [], 0.0

    def begin(self, *state: object, **more: object) -> None:
        """A step begins."""
        self.t0 = time.perf_counter()

    def end(self, *state: object, **more: object) -> None:
        """It has ended."""
        self.seconds.append(time.perf_counter() - self.t0)


def letters(folder: Path):
    """A tokenizer with a token for each of the first characters, as TRL wants one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.WordLevel({**{chr(0x4E00 + n): n for n in range(LETTERS)}, "<eos>": LETTERS}, "<eos>")
    )
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


if __name__ == "__main__":
    main(
        "tokens/s",
        {
            "smolllama": ours,
            "trl padded": lambda: trl(False),
            "trl packing": lambda: trl(True),
            "trl packing 3 rows": lambda: trl(True, 3),  # which hold about 8 conversations
            "transformers padded to the longest": padded,
        },
    )
