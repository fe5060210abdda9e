"""docs/SCALING.md: its figures are those of the formulas."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from toy import ROOT

from config import ModelArgs
from model import count_parameters, flops_per_token
from training.memory import memory_bytes

TEXT = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")
SHAPES = {
    "130M": (768, 15, 12, 2, 1024, 32),
    "350M": (1024, 27, 16, 4, 2048, 8),
    "1B": (2048, 20, 16, 4, 2048, 8),
}
MFU, PEAK = 0.30, 989e12


def row(name: str) -> list[float]:
    """The first three numbers of the table row that begins with a name."""
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| {name} "))
    return [float(re.match(r"\s*([\d.,e]+)", cell)[1].replace(",", "")) for cell in line.split("|")[2:5]]


def test_the_figures_are_those_of_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    for column, (name, (width, layers, heads, kv_heads, context, rows)) in enumerate(SHAPES.items()):
        assert f"{width} x {layers}, {heads} and {kv_heads}, {context}" in TEXT, name
        args = ModelArgs(
            embeddings_dims=width,
            no_of_decoder_layers=layers,
            no_of_heads=heads,
            no_kv_heads=kv_heads,
            block_size=context,
            micro_batch_size=rows,
            dropout=0.0,
            attn_dropout=0.0,
        )
        P, F = count_parameters(args), flops_per_token(args)
        memory, network = memory_bytes(args, torch.device("cuda"), torch.bfloat16), 50e9

        def seconds(tokens: float, gpus: int, F: float = F) -> float:
            return tokens * F / (MFU * PEAK * gpus)

        figures = {
            "parameters P": P / 1e6,
            "operations per token F": F / 1e9,
            "tokens D = 20 P": 20 * P / 1e9,
            "prepared data, 2 bytes a token": 40 * P / 1e9,
            "operations in all, D F": 20 * P * F,
            "1 |": seconds(20 * P, 1) / 3600,
            "16 P, `ddp`": 16 * P / 1e9,
            "16 P / 8, `fsdp`": 2 * P / 1e9,
            "what backward needs of a micro-batch": (memory - 16 * P) / 1e9,
            "all, `ddp`, of 80 GB": memory / 1e9,
            "`ddp`, bytes a step and GPU": 2 * 63 / 64 * 4 * P / 1e9,
            "that at 50 GB/s": 1e3 * 2 * 63 / 64 * 4 * P / network,
            "computing 524,288 tokens (8,192 a GPU)": 1e3 * seconds(524288, 64),
            "computing 2,097,152 tokens (32,768 a GPU)": 1e3 * seconds(2097152, 64),
            "`fsdp`, bytes a micro-batch and GPU": 3 * 63 / 64 * 4 * P / 1e9,
        }
        for what, value in figures.items():
            assert row(what.removesuffix(" |"))[column] == pytest.approx(value, rel=0.04, abs=0.06), (
                name,
                what,
            )


def test_the_slurm_script_is_bash_and_its_flags_are_torchruns() -> None:
    script = (ROOT / "docs" / "train.slurm").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = re.findall(r"--[a-z_-]+", script[script.index("torchrun --nnodes") :])
    known = subprocess.check_output([sys.executable, "-m", "torch.distributed.run", "--help"], text=True)
    assert len(words) == 6 and all(word in known for word in words)
