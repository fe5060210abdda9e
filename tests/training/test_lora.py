"""LoRA against peft on transformers' Llama; runs of both stages, kills, ranks; what a step folder is good for."""

import json
import math
import shutil
import signal
import sys
import tomllib

import pytest
import torch
from forks import forked
from kills import in_step
from safetensors.torch import load_file
from toy import ROOT, metrics, toy_dataset, trainer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import export
from checkpoint import load_args, load_model, steps
from config import ModelArgs
from dataloader.batch import Batch
from generation.cpu_decoder import build_cpu_decoder
from model import Llama
from modelfiles import adapter
from runtime.errors import UserError, run_cli
from training import lora
from training.objectives import next_token
from training.preference_scores import reference_of_run

peft = pytest.importorskip("peft")

TALKS = {
    "train": "S",
    "dataset": "talks",
    "block_size": 64,
    "batch_size": 4,
    "total_batch_size": 512,
    "lora_rank": 4,
    "dropout": 0.1,
}
PAIRS = {**TALKS, "train": "D", "dataset": "pairs", "total_batch_size": 1024, "dropout": 0.0}
TOKENS = torch.randint(96, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A folder with data, a base that is pretrained, and a run of S and one of D with adapters of it."""
    folder = tmp_path_factory.mktemp("adapted")
    toy_dataset(folder / "data")
    toy_dataset(folder / "data", "talks", kind="instruct")
    toy_dataset(folder / "data", "pairs", kind="preference")
    forked(folder, tie_embeddings=False)
    for stage in (TALKS, PAIRS):
        forked(folder, **stage, init_from=folder / "runs" / "P-toy")
    return folder


def newest(folder, run):
    return steps(folder / "runs" / run)[-1]


def fill(model, std=0.3, seed=0):
    """Give the adapter of a model weights that change something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora" in name:
                weight.copy_(std * torch.randn(weight.shape, generator=generator))


@pytest.fixture
def pair(tiny, spread):
    """Our Llama and transformers' with the same weights and the same adapter of some of their matrices."""
    args = tiny.replace(train="S", lora_rank=3, lora_alpha=5, lora_modules=("q_proj", "v_proj", "down_proj"))
    ours = spread(Llama(args))
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=args.eps,
            tie_word_embeddings=True,
        )
    )
    theirs.load_state_dict(ours.state_dict())
    lora.inject(ours, args, torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(args.lora_modules))
    theirs = peft.get_peft_model(theirs, config)
    fill(ours)
    files = lora.adapter_weights(ours.state_dict())
    peft.set_peft_model_state_dict(theirs, files)
    return ours, theirs


def test_gradients_of_the_adapter_are_those_of_peft_on_transformers(pair) -> None:
    ours, theirs = pair
    labels = TOKENS.roll(-1, 1)
    loss, count, _ = next_token(ours, Batch(tokens=TOKENS, labels=labels))
    (loss / count).backward()
    logits = theirs(TOKENS).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()

    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    gradients = {
        f"{adapter.PREFIX}{name}": p.grad for name, p in ours.named_parameters() if p.grad is not None
    }
    assert gradients.keys() == expected.keys() and len(gradients) == 2 * 2 * 3
    for name, gradient in gradients.items():
        assert expected[name].abs().max() > 1e-4
        assert (gradient - expected[name]).abs().max() < 1e-5 * max(1, expected[name].abs().max()), name


def test_only_the_adapter_is_trained_and_counted(tiny: ModelArgs) -> None:
    for modules in ((), ("k_proj",), ("o_proj", "gate_proj")):
        args = tiny.replace(train="S", lora_rank=5, lora_modules=modules)
        model = Llama(args)
        lora.inject(model, args, torch.bfloat16)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert sum(p.numel() for p in trained.values()) == lora.count_adapter_parameters(args)
        assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert {p.dtype for p in frozen if p.dim() == 2} == {torch.bfloat16}
        assert {p.dtype for p in frozen if p.dim() == 1} == {torch.float32}


def test_in_16_bits_gradients_are_close_and_the_adapter_stays_in_float32(tiny: ModelArgs) -> None:
    args = tiny.replace(train="S", lora_rank=3, lora_alpha=3)
    labels = TOKENS.roll(-1, 1)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = Llama(args)
        lora.inject(model, args, dtype)
        fill(model, std=0.05)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss, count, _ = next_token(model, Batch(tokens=TOKENS, labels=labels))
        (loss / count).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    exact, rounded = gradients
    assert exact.keys() == rounded.keys() and len(exact) == 2 * 7 * 2
    for name, gradient in exact.items():
        assert rounded[name].dtype == torch.float32
        assert 0 < (rounded[name] - gradient).norm() < 0.05 * gradient.norm(), name


def test_a_rollback_takes_the_adapter_of_the_step_alone(adapted) -> None:
    step = newest(adapted, "S-talks")
    args = load_args(step).replace(train="S", lora_rank=4)
    model = Llama(args)
    lora.load_weights(model, args, step, torch.float32)
    fill(model)
    lora.load_weights(model, args, step, torch.float32)
    files = load_file(step / adapter.WEIGHTS)
    own = lora.adapter_weights(model.state_dict())
    assert own.keys() == files.keys() and all(torch.equal(own[name], files[name]) for name in files)


def test_without_its_adapter_a_model_is_its_base(pair) -> None:
    ours, _ = pair
    adapted = ours(TOKENS)
    with lora.without_adapter(ours):
        base = ours(TOKENS)
    plain = Llama(ours.args)
    names = {
        name.replace(".base_layer", ""): w for name, w in ours.state_dict().items() if "lora" not in name
    }
    plain.load_state_dict(names)
    assert torch.equal(base, plain(TOKENS))
    assert (adapted - base).abs().max() > 0.1
    assert torch.equal(ours(TOKENS), adapted)


def test_a_step_is_a_folder_of_peft_and_adds_up(adapted) -> None:
    """Equal logits: our model of base and adapter, peft's on transformers, transformers alone, and the export."""
    for run in ("S-talks", "D-pairs"):
        step = newest(adapted, run)
        assert not (step / "model.safetensors").exists()
        tokens = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            model, _ = load_model(step)
            logits = model(tokens)

            base = AutoModelForCausalLM.from_pretrained(newest(adapted, "P-toy"))
            unadapted = base(tokens).logits
            theirs = peft.PeftModel.from_pretrained(base, step)
            merged = theirs.eval()(tokens).logits
            alone = peft.AutoPeftModelForCausalLM.from_pretrained(step).eval()(tokens).logits

        assert (logits - unadapted).abs().max() > 1e-3
        for others in (merged, alone):
            assert (logits - others).abs().max() < 2e-5


def test_the_state_of_training_is_the_adapter(adapted) -> None:
    step = newest(adapted, "S-talks")
    count = lora.count_adapter_parameters(
        ModelArgs(
            embeddings_dims=32,
            no_of_decoder_layers=2,
            no_of_heads=4,
            no_kv_heads=2,
            vocab_size=320,
            lora_rank=4,
        )
    )
    files = load_file(step / adapter.WEIGHTS)
    assert sum(weight.numel() for weight in files.values()) == count
    state = torch.load(step / "train_state" / "optimizer.pt", weights_only=True)["optimizers"]["state"]
    assert sum(moments["exp_avg"].numel() for moments in state.values()) == count


def test_alignment_measures_against_the_base(adapted) -> None:
    rows = metrics(adapted / "runs" / "D-pairs")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and rows[0]["margin"] == 0
    assert rows[-1]["loss"] < rows[0]["loss"] - 1e-3
    assert not (adapted / "data" / "pairs" / "reference").exists()


def test_evaluation_measures_against_the_base(adapted) -> None:
    reference = reference_of_run(newest(adapted, "D-pairs"), adapted / "data" / "pairs", 64)
    base, _ = load_model(adapted / "runs" / "P-toy")
    assert all(
        torch.equal(weight, reference.state_dict()[name]) for name, weight in base.state_dict().items()
    )
    assert reference_of_run(newest(adapted, "S-talks"), adapted / "data" / "pairs", 64) is None


def test_a_model_with_an_adapter_is_not_decoded_by_its_matrices_alone(pair) -> None:
    ours, _ = pair
    assert build_cpu_decoder(ours.eval(), 1) is None


@pytest.mark.parametrize("stage", [TALKS, PAIRS], ids="SD")
def test_a_killed_run_resumes_bit_identical(adapted, tmp_path, stage) -> None:
    shutil.copytree(adapted / "data", tmp_path / "data")
    shutil.copytree(adapted / "runs" / "P-toy", tmp_path / "runs" / "P-toy")
    start = tmp_path / "runs" / "P-toy"
    forked(tmp_path, before=lambda rank: in_step(), code=-signal.SIGKILL, **stage, init_from=start)
    run = tmp_path / "runs" / f"{stage['train']}-{stage['dataset']}"
    assert (run / "latest").read_text() == "step_000002"
    resumed = {name: value for name, value in stage.items() if name != "lora_rank"}  # the checkpoint has it
    said = forked(tmp_path, "--resume", **resumed)
    assert "adapter: 5,632 parameters, rank 4" in said

    unbroken = newest(adapted, run.name)
    files, expected = (load_file(step / adapter.WEIGHTS) for step in (newest(tmp_path, run.name), unbroken))
    assert files.keys() == expected.keys()
    assert all(torch.equal(files[name], expected[name]) for name in files)
    assert [row["loss"] for row in metrics(run)] == [row["loss"] for row in metrics(unbroken.parent)]


@pytest.mark.parametrize("stage", [TALKS, PAIRS], ids="SD")
def test_two_ranks_take_the_steps_of_one(adapted, tmp_path, stage) -> None:
    shutil.copytree(adapted / "data", tmp_path / "data")
    one = {**stage, "init_from": adapted / "runs" / "P-toy", "dropout": 0.0, "attn_dropout": 0.0}
    for ranks in (1, 2):
        forked(tmp_path, **one, ranks=ranks, run_name=f"ranks{ranks}")
    single, double = (load_file(newest(tmp_path, f"ranks{ranks}") / adapter.WEIGHTS) for ranks in (1, 2))
    for name in single:
        assert torch.allclose(single[name], double[name], atol=2e-5), name
    assert any(weight.abs().max() > 1e-3 for name, weight in single.items() if "lora_B" in name)


def refusal(folder, *words, **settings):
    """The one line that the trainer says when it refuses."""
    said = forked(folder, *words, code=2, **settings).strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_what_does_not_fit_is_refused(adapted) -> None:
    start = {"init_from": adapted / "runs" / "P-toy"}
    text = {"lora_rank": 4, "run_name": "other"}
    other = {**TALKS, "run_name": "other"}
    assert "--train S or D, and --init_from" in refusal(adapted, **text, **start)
    assert "--train S or D, and --init_from" in refusal(adapted, **other)
    assert "--optimizer adamw" in refusal(adapted, **other, **start, optimizer="muon")
    assert "--parallel ddp" in refusal(adapted, **other, **start, parallel="fsdp")
    assert "lm_head is unknown: use some of q_proj" in refusal(
        adapted, **other, **start, lora_modules="lm_head"
    )
    assert "with --lora_rank only" in refusal(
        adapted, **{**other, "lora_rank": 0}, lora_modules="q_proj", **start
    )
    assert "export.py --model" in refusal(adapted, **other, init_from=adapted / "runs" / "S-talks")
    resumed = {**TALKS, "lora_rank": 8}
    assert "run of --lora_rank 4 with 8" in refusal(adapted, "--resume", **resumed)
    assert len(steps(adapted / "runs" / "S-talks")) == 3


def test_all_weights_can_be_tuned_from_an_adapter_and_its_base(adapted) -> None:
    forked(adapted, **{**TALKS, "lora_rank": 0}, init_from=adapted / "runs" / "S-talks", run_name="full")
    assert (newest(adapted, "full") / "model.safetensors").is_file()


def test_a_missing_peft_is_one_line(monkeypatch: pytest.MonkeyPatch, adapted) -> None:
    monkeypatch.setattr(lora, "is_installed", lambda name: False)
    args = ModelArgs(train="S", lora_rank=4)
    with pytest.raises(UserError, match="pip install peft==") as refused:
        lora.check_settings(args, {}, newest(adapted, "P-toy"), None)
    assert "\n" not in str(refused.value)


def test_the_version_is_the_one_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert lora.PEFT in extras["lora"] and lora.PEFT in extras["test"]


def test_an_export_is_the_sum(adapted, tmp_path, monkeypatch, capsys) -> None:
    step = newest(adapted, "S-talks")
    words = ["export.py", "--model", str(step), "--to", str(tmp_path / "joined")]
    monkeypatch.setattr(sys, "argv", words)
    run_cli(export.main)
    joined = tmp_path / "joined"
    assert "adapter_base" not in json.loads((joined / "config.json").read_text())["smolllama"]
    assert "| lora_rank |" in (joined / "README.md").read_text()
    shutil.copytree(joined, tmp_path / "moved")
    model, _ = load_model(step)
    merged, _ = load_model(tmp_path / "moved")
    assert all(torch.equal(weight, merged.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.slow
def test_compiled_steps_are_those_of_the_plain_model(adapted, tmp_path) -> None:
    shutil.copytree(adapted / "data", tmp_path / "data")
    start = {**PAIRS, "init_from": adapted / "runs" / "P-toy"}
    trainer(tmp_path, **start, run_name="plain", compile=False)
    done = trainer(tmp_path, **start, run_name="compiled", compile=True)
    assert done.returncode == 0, done.stderr
    plain, compiled = (metrics(tmp_path / "runs" / name) for name in ("plain", "compiled"))
    assert [row["loss"] for row in plain] == pytest.approx([row["loss"] for row in compiled], abs=1e-4)
