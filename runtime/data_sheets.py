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
OTHER_CARDS = {
    "Laptop",
    "Max-Q",
    "Mobile",
    "MIG",
}  # words of slower cards, and parts of cards, that share a name
VARIANTS = {"Ti", "SUPER", "D", "PCIe", "NVL"}  # words after a name that make another card of it


def data_sheet_flops(name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a GPU by its name, for products of a precision; None where it is not in the table."""
    words = re.split(r"[ -]", name)
    if OTHER_CARDS & set(words):
        return None

    entry = next((entry for entry in PEAK_TFLOPS if _names(words, entry.split())), None)
    if entry is None:
        return None

    share = 1.0
    if dtype == torch.float32:
        share = 1 / 8 if entry in WITHOUT_TF32 else TF32_SHARE
    return share * PEAK_TFLOPS[entry] * 1e12


def _names(words: list[str], entry: list[str]) -> bool:
    """Check whether a card's name has the words of an entry one after another, and is not a variant of it."""
    for start in range(len(words)):
        end = start + len(entry)
        if words[start:end] == entry:
            return end == len(words) or words[end] not in VARIANTS
    return False
