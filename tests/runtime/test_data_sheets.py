"""Peaks of GPUs by the names that drivers give."""

import pytest
import torch

from runtime.data_sheets import data_sheet_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 4080 SUPER", 104),
        ("NVIDIA RTX 6000 Ada Generation", 364),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("NVIDIA GeForce RTX 4070 SUPER", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H800 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peak_by_name(name: str, tflops: float | None) -> None:
    found = data_sheet_flops(name, torch.bfloat16)
    assert found == (tflops and tflops * 1e12)


def test_float32_is_tf32_where_there_is_any() -> None:
    assert data_sheet_flops("NVIDIA H100 80GB HBM3", torch.float32) == 989e12 / 2
    assert data_sheet_flops("Tesla T4", torch.float32) == 65e12 / 8
