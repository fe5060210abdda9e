"""DPO on pairs as long as UltraFeedback's: width 256, 6 layers, GPT-2's vocabulary, 512 tokens, 4 pairs a step.

    pip install -r benchmarks/requirements-trl.txt
    python benchmarks/alignment.py

The reference counts: ours computes it once before the first step, and its time is added to that of the steps.
"""

import tempfile
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from finetuning import StepTimes, letters, llama, our_model, timed
from harness import Figures, main
from made import T, preferences, store_of
from torch import Tensor, nn

PAIRS, STEPS, BETA = 4, 4, 0.1
CONVERSATIONS = preferences(PAIRS * STEPS)


def pair_rate(seconds: list[float], before: float = 0.0) -> Figures:
    """Pairs a second, the first step left out; what was spent before the steps counts by its share."""
    share = (len(seconds) - 1) / len(seconds)
    return {"rate": PAIRS * STEPS * share / (sum(seconds[1:]) + before * share)}


def ours() -> Figures:
    """trainer.py's own step on packed pairs, after the reference pass."""
    from dataloader.loader import Loader
    from dataloader.pairs import PairRows
    from trainer import train_step
    from training.objectives import completion_logps, preference
    from training.reference_table import make_table

    model, *update, args, env = our_model("D")
    with tempfile.TemporaryDirectory() as folder:
        rows = PairRows(store_of(Path(folder), "preference", CONVERSATIONS), T, 0)
        at_a_time = max(1, round(len(rows) / STEPS))

        def reference() -> None:
            nonlocal rows
            table = make_table(
                Path(folder) / "reference.npy",
                rows,
                lambda batch: completion_logps(model, batch),
                at_a_time,
                env,
                lambda: None,
            )
            rows = rows.with_reference(table)

        before, loader = timed(reference, 1)[0], Loader(rows, at_a_time, 0, 1)
        step = timed(
            lambda: train_step(preference(args), model, *update, loader, args, env),
            round(len(rows) / at_a_time),
        )
        return pair_rate(step, before)


def plain() -> Figures:
    """transformers' model in the usual loop: both answers of all pairs padded, policy and reference at each step."""
    policy = llama().train()
    reference = deepcopy(policy).eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-6, fused=True)
    batches = iter([CONVERSATIONS[first : first + PAIRS] for first in range(0, len(CONVERSATIONS), PAIRS)])

    def logps(model: nn.Module, tokens: Tensor, attended: Tensor, learned: Tensor) -> Tensor:
        logits = model(input_ids=tokens, attention_mask=attended).logits[:, :-1].log_softmax(-1)
        return (logits.gather(2, tokens[:, 1:, None])[..., 0] * learned[:, 1:]).sum(1)

    def step() -> None:
        rows = [
            (torch.from_numpy(prompt), torch.from_numpy(answer))
            for prompt, *answers in next(batches)
            for answer in answers
        ]
        pad = nn.utils.rnn.pad_sequence
        tokens = pad([torch.cat(row) for row in rows], batch_first=True)
        attended = pad([torch.ones(sum(map(len, row))) for row in rows], batch_first=True)
        learned = pad(
            [torch.cat((torch.zeros(len(a)), torch.ones(len(b)))) for a, b in rows], batch_first=True
        )
        with torch.no_grad():
            before = logps(reference, tokens, attended, learned)
        chosen, rejected = (logps(policy, tokens, attended, learned) - before).view(-1, 2).unbind(1)
        (-F.logsigmoid(BETA * (chosen - rejected)).mean()).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return pair_rate(timed(step, STEPS))


def trl() -> Figures:
    """TRL's DPOTrainer, in float32 and without recomputation."""
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        dict(
            zip(
                ("prompt", "chosen", "rejected"),
                ("".join(chr(0x4E00 + n) for n in ids) for ids in conversation),
                strict=True,
            )
        )
        for conversation in CONVERSATIONS
    ]
    with tempfile.TemporaryDirectory() as folder:
        options = DPOConfig(
            folder,
            per_device_train_batch_size=PAIRS,
            num_train_epochs=1,
            max_length=T,
            beta=BETA,
            learning_rate=2e-6,
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        clock, model = StepTimes(), llama()
        DPOTrainer(
            model,
            deepcopy(model),
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
        return pair_rate(clock.seconds)


if __name__ == "__main__":
    main("pairs/s", {"smolllama": ours, "trl": trl, "transformers in a plain loop": plain})
