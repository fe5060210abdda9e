"""Our SFT and DPO losses against TRL's own on the same weights and rows: batch by batch, and ten optimizer steps.

    pip install -r benchmarks/requirements-trl.txt
    python benchmarks/trl_parity.py --instruct alpaca.json --preference pairs.jsonl

TRL collates, computes and steps as its SFTTrainer and DPOTrainer do; of pairs it also makes the ids, from messages and
the chat template of our checkpoint. Ours are packed. The weights are random, and large enough for attention and
log-probs to vary; policy and reference differ. Prints a table; exit code 1 where a bound is broken.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import torch
import transformers
import trl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import checkpoint
from config import ModelArgs
from dataloader.batch import Batch
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows
from dataprep import conversations, ranges, readers
from dataprep.documents import row_documents
from dataprep.forms import table_columns
from dataprep.shards import ShardWriter, TokenDataset, id_dtype
from model import Llama
from runtime.command_line import Parser
from runtime.distributed import DistributedEnv
from runtime.errors import run_cli
from tokenizer import Tokenizer, gpt2
from trainer import train_step
from training.objectives import Objective, completion_logps, next_token, preference
from training.optimizers import build_optimizers

ENV = DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "")
BATCH, STEPS = 4, 10
BATCH_BOUND, STEP_BOUND = 1e-4, 1e-3  # of figures above 1 the relative difference counts
ROWS = {"instruct": PackedRows, "preference": PairRows}
NAMES = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logps": "logps/chosen",
    "rejected_logps": "logps/rejected",
}


# --- what both are given ---------------------------------------------------------------------------------------------


def read_rows(path: str, kind: str, tokenizer: Tokenizer, context: int) -> list[dict]:
    """The rows of a file that fit the context whole: how those too long are cut is our own."""
    rows = [
        row
        for file_range in ranges.local_ranges([path], 1 << 30)
        for row, _ in readers.iter_rows(file_range, table_columns(kind))
    ]
    made = row_documents(((row, f"row {number}") for number, row in enumerate(rows, 1)), kind, tokenizer)
    fit = [max(len(ids) for ids, *_ in document.token_parts) <= context for document in made]
    print(f"{path}: {sum(fit)} of {len(fit)} rows fit {context} tokens")
    return [row for row, fits in zip(rows, fit, strict=True) if fits]


def random_model(folder: Path, args: ModelArgs, tokenizer: Tokenizer, seed: int) -> Path:
    """A model folder of random weights; those of another seed are near."""
    torch.manual_seed(0)
    model = Llama(args)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(5).add_(0.005 * torch.randn_like(weight))
    folder.mkdir()
    checkpoint.write_model(folder, model, tokenizer, {"stage": "P"})
    return folder


# --- ours ------------------------------------------------------------------------------------------------------------


def our_batches(
    folder: Path, kind: str, rows: list[dict], tokenizer: Tokenizer, reference: Llama
) -> list[Batch]:
    """BATCH rows of the file at a time, each time packed by themselves."""
    batches = []
    for first in range(0, len(rows), BATCH):
        writer = ShardWriter(folder, kind, first, id_dtype(tokenizer.vocab_size), with_loss_mask=True)
        for document in row_documents(((row, "") for row in rows[first : first + BATCH]), kind, tokenizer):
            for part in document.token_parts:
                writer.add(*part, is_complete=True)
        meta = {"splits": {kind: [writer.close()]}, "tokenizer": {"vocab_size": tokenizer.vocab_size}}
        packed = ROWS[kind](TokenDataset(folder, kind, meta), reference.args.block_size, 0)
        (batch,) = fixed_batches(packed, len(packed), 0, 1)
        if kind == "preference":
            with torch.no_grad():
                batch = batch._replace(reference=completion_logps(reference, batch))
        batches.append(batch)
    return batches


def our_figures(objective: Objective, model: Llama, batches: list[Batch]) -> list[dict[str, float]]:
    """Loss and what else the objective tells, of each batch."""
    figures = []
    for batch in batches:
        with torch.no_grad():
            loss, count, sums = objective(model, batch)
        figures.append({name: (value / count).item() for name, value in {"loss": loss, **sums}.items()})
    return figures


def our_steps(objective: Objective, model: Llama, batches: list[Batch], args: ModelArgs) -> list[float]:
    """The losses of STEPS steps of the trainer."""
    feed, scaler = itertools.cycle(batches), torch.amp.GradScaler("cpu", enabled=False)
    optimizers = build_optimizers(model, args)
    return [
        train_step(objective, model, optimizers, scaler, SimpleNamespace(next=feed.__next__), args, ENV)[
            "loss"
        ]
        for _ in range(STEPS)
    ]


# --- TRL's -----------------------------------------------------------------------------------------------------------


def recording(trainer: type) -> type:
    """A TRL trainer that keeps each loss as it computes it; what it logs is rounded."""

    class Recording(trainer):
        losses: list[float] = []

        def compute_loss(self, *args, **options):
            loss = super().compute_loss(*args, **options)
            self.losses.append(loss.item())
            return loss

    return Recording


def trl_options(folder: Path, args: ModelArgs) -> dict:
    """The settings of a TRL trainer that steps as ours does."""
    return dict(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        train_sampling_strategy="sequential",
        learning_rate=args.max_lr,
        lr_scheduler_type="constant",
        weight_decay=args.weight_decay_optim,
        adam_beta1=args.beta_1,
        adam_beta2=args.beta_2,
        max_grad_norm=args.clip,
        max_length=None,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )


def in_trl(folder: Path) -> transformers.PreTrainedModel:
    """A checkpoint as TRL loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.model.embed_tokens.padding_idx = (
        None  # else the end-of-text token inside conversations has no gradient
    )
    return model


def sft_trainer(policy: Path, rows: list[dict], tokenizer: Tokenizer, options: dict) -> trl.SFTTrainer:
    """SFTTrainer on the ids of our template with the responses as completions."""
    parts = [
        document.token_parts[0]
        for document in row_documents(((row, "") for row in rows), "instruct", tokenizer)
    ]
    data = datasets.Dataset.from_list(
        [{"input_ids": ids.tolist(), "completion_mask": keep.astype(int).tolist()} for ids, keep, _ in parts]
    )
    return recording(trl.SFTTrainer)(
        in_trl(policy),
        args=trl.SFTConfig(completion_only_loss=True, **options),
        train_dataset=data,
        processing_class=transformers.AutoTokenizer.from_pretrained(policy),
    )


def dpo_trainer(
    policy: Path, reference: Path, rows: list[dict], beta: float, kind: str, options: dict
) -> trl.DPOTrainer:
    """DPOTrainer on the rows as messages, which it brings into the checkpoint's chat template itself."""
    pairs = (conversations.preference(row, "") for row in rows)
    data = datasets.Dataset.from_list(
        [
            {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}
            for chosen, rejected, same in pairs
        ]
    )
    return recording(trl.DPOTrainer)(
        in_trl(policy),
        ref_model=in_trl(reference),
        args=trl.DPOConfig(beta=beta, loss_type=[kind], **options),
        train_dataset=data,
        processing_class=transformers.AutoTokenizer.from_pretrained(policy),
    )


def trl_figures(trainer: transformers.Trainer) -> list[dict[str, float]]:
    """What TRL computes of each batch of an epoch, by our names."""
    figures = []
    trainer.model.eval()
    for inputs in trainer.get_train_dataloader():
        trainer._metrics["eval"].clear()
        with torch.no_grad():
            figure = {"loss": trainer.compute_loss(trainer.model, inputs).item()}
        logged = trainer._metrics["eval"]  # what its log() would average
        figures.append(
            figure | {ours: logged[theirs][0] for ours, theirs in NAMES.items() if theirs in logged}
        )
    return figures


def trl_steps(trainer: transformers.Trainer) -> list[float]:
    """The losses of its first STEPS steps."""
    trainer.losses.clear()
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return list(trainer.losses)


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(what: str, ours: list[dict[str, float]], theirs: list[dict[str, float]], bound: float) -> bool:
    """Print the largest difference of each figure; whether all are within the bound."""
    fine = len(ours) == len(theirs) and all(a.keys() == b.keys() for a, b in zip(ours, theirs, strict=True))
    for name in ours[0]:
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
        worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)
        fine &= worst <= bound
        low, high = min(b for _, b in pairs), max(b for _, b in pairs)
        print(
            f"{what:26} {name:16} {len(pairs):3} from {low:11.5f} to {high:11.5f}, difference {worst:.1e} "
            f"{'within' if worst <= bound else 'ABOVE'} {bound:g}",
            flush=True,
        )
    return fine


def main() -> None:
    """Compare both stages; exit with 1 where they differ."""
    parser = Parser(__doc__)
    parser.add_argument("--instruct", required=True, help="instructions: .json, .jsonl or .parquet")
    parser.add_argument("--preference", required=True, help="preference pairs, likewise")
    parser.add_argument("--block_size", type=int, default=2048, help="context; longer rows are left out")
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    tokenizer, results = gpt2(), []
    args = ModelArgs(
        embeddings_dims=64,
        no_of_decoder_layers=2,
        no_of_heads=4,
        block_size=asked.block_size,
        dropout=0.0,
        attn_dropout=0.0,
        device="cpu",
        max_lr=1e-3,
        beta=0.1,
        gradient_accumulation_steps=1,
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        policy, reference = (
            random_model(folder / name, args, tokenizer, seed)
            for seed, name in enumerate(("policy", "reference"), 1)
        )
        for kind, path, losses in (
            ("instruct", asked.instruct, [None]),
            ("preference", asked.preference, ["sigmoid", "ipo"]),
        ):
            rows = read_rows(path, kind, tokenizer, args.block_size)
            batches = our_batches(folder, kind, rows, tokenizer, checkpoint.load_model(reference)[0])
            for loss in losses:
                objective = preference(args.replace(dpo_loss=loss)) if loss else next_token
                model, options = checkpoint.load_model(policy)[0], trl_options(folder / "trl", args)
                theirs = (
                    dpo_trainer(policy, reference, rows, args.beta, loss, options)
                    if loss
                    else sft_trainer(policy, rows, tokenizer, options)
                )
                name = f"DPO ({loss})" if loss else "SFT"
                results.append(
                    compare(
                        f"{name}, each batch",
                        our_figures(objective, model, batches),
                        trl_figures(theirs),
                        BATCH_BOUND,
                    )
                )
                results.append(
                    compare(
                        f"{name}, {STEPS} steps",
                        *(
                            [{"loss": x} for x in steps]
                            for steps in (our_steps(objective, model, batches, args), trl_steps(theirs))
                        ),
                        STEP_BOUND,
                    )
                )
    sys.exit(not all(results))


if __name__ == "__main__":
    run_cli(main)
