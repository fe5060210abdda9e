"""Peak speed of GPUs, from their vendors' data sheets."""

import re

import torch

# Dense products of 16-bit matrices with sums in float32, in TFLOP/s, by the words of the name that the driver gives.
PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H200 NVL": 835,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "A30": 165,
    "A10": 125,
    "A10G": 70,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "RTX A6000": 155,
    "RTX A5000": 111,
    "RTX 6000 Ada": 364,
    "RTX 5090": 209,
    "RTX 5080": 113,
    "RTX 5070 Ti": 88,
    "RTX 5070": 62,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 4080 SUPER": 104,
    "RTX 4070 Ti": 80,
    "RTX 4070": 58,
    "RTX 3090": 71,
    "RTX 3090 Ti": 80,
    "RTX 3080": 60,
    "RTX 3080 Ti": 68,
    "RTX 3070": 41,
    "RTX 3060": 25,
}

WITHOUT_TF32 = ("V100", "T4")  # their float32 products take no tensor cores: an eighth
TF32_SHARE = 1 / 2  # of the 16-bit speed, on all others
SLOWER_VARIANTS = {"Laptop", "Max-Q", "Mobile"}  # of cards whose name they share


def data_sheet_flops(name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a GPU by its name, for products of a precision; None where it is not in the table."""
    words = re.split(r"[ -]", name)
    if SLOWER_VARIANTS & set(words):
        return None

    # The longest entry whose words stand one after another in the name: an L40 is no L4.
    matches = [
        entry
        for entry in PEAK_TFLOPS
        if any(words[n : n + len(entry.split())] == entry.split() for n in range(len(words)))
    ]
    if not matches:
        return None
    entry = max(matches, key=len)

    share = 1.0
    if dtype == torch.float32:
        share = 1 / 8 if entry in WITHOUT_TF32 else TF32_SHARE
    return share * PEAK_TFLOPS[entry] * 1e12
