"""Pickled files of strangers: no code is run, and none costs more memory than it has bytes."""

import io
import pickle
import re
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from examples import Bomb

from modelfiles.pickled_weights import PICKLE_ERRORS, load_pickled, pickle_error, plain_weights

MARGIN = 64 << 20  # bytes of memory that reading a small file may take


class Calls:
    """Object whose pickle calls a function."""

    def __init__(self, function: Callable, *values: object):
        self.call = function, values

    def __reduce__(self) -> tuple:
        return self.call


def saved(value: object, **options: object) -> bytes:
    """Return the file that torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def compressed(content: bytes, ballast: int = 0) -> bytes:
    """Return a file of torch.save with its entries compressed; `ballast` zeros follow the pickle in one more entry."""
    result = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/data/99", bytes(ballast))
    return result.getvalue()


def shorter(content: bytes) -> bytes:
    return content[: len(content) // 2]


GOOD = {"a": torch.arange(6.0).view(2, 3), "b": torch.nn.Parameter(torch.ones(2))}
OLD = {"_use_new_zipfile_serialization": False}
REFUSED = {
    "code": lambda: saved({"a": Bomb()}),
    "code in the old format": lambda: saved({"a": Bomb()}, **OLD),
    "a terabyte by a call": lambda: saved({"a": Calls(bytearray, 1 << 40)}),
    "a gigabyte by a call": lambda: saved({"a": Calls(bytearray, 1 << 30)}),
    "a gigabyte by a call, in the old format": lambda: saved({"a": Calls(bytearray, 1 << 30)}, **OLD),
    "a name that is computed": lambda: saved({"a": Calls(bytearray, 1 << 30)}, pickle_protocol=4),
    "a bare pickle": lambda: pickle.dumps({"a": Calls(bytearray, 1 << 30)}),
    "compressed": lambda: compressed(saved(GOOD), 1 << 28),
    "one number everywhere": lambda: saved({"a": torch.zeros(1).expand(1 << 25, 1 << 25)}),
    "one number everywhere, by strides": lambda: saved({"a": torch.zeros(9).as_strided((3, 9), (0, 1))}),
    "sparse": lambda: saved({"a": torch.eye(3).to_sparse()}),
    "without content": lambda: saved({"a": torch.empty(1 << 40, device="meta")}),
    "names that are numbers": lambda: saved({5: torch.ones(1)}),
    "more than weights": lambda: saved({"a": 5}),
    "a list": lambda: saved([torch.ones(1)]),
    "cut short": lambda: shorter(saved(GOOD)),
    "cut short, in the old format": lambda: shorter(saved(GOOD, **OLD)),
    "empty": lambda: b"",
    "text": lambda: b"Once upon a time",
    "an empty archive": lambda: b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_costs_no_memory_and_runs_nothing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(REFUSED[name]())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PICKLE_ERRORS) as raised:
        plain_weights(load_pickled(file))

    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    assert grown < MARGIN
    assert not list(Path().glob("exploded")) and not list(tmp_path.rglob("exploded"))
    line = str(pickle_error(file, "weights", raised.value))
    assert re.fullmatch(r".*a.bin is not a complete file of weights, and no code in it was run \(.*\)", line)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old format"])
def test_plain_weights_of_both_formats_are_read(options: dict, tmp_path: Path) -> None:
    content = {**GOOD, "half": torch.ones(2, dtype=torch.bfloat16), "tied": GOOD["a"]}
    content["part"] = torch.arange(10.0)[2:5]
    (tmp_path / "a.bin").write_bytes(saved({"state": content, "step": 5, "loss": [0.5]}, **options))
    state = load_pickled(tmp_path / "a.bin")
    assert state["step"] == 5
    weights = plain_weights(state["state"])
    assert weights.keys() == content.keys()
    assert all(torch.equal(weights[name], content[name]) for name in content)


def test_8_bits_are_read(tmp_path: Path) -> None:
    weight = torch.ones(3).to(torch.float8_e4m3fn)
    (tmp_path / "a.bin").write_bytes(saved({"a": weight}))
    assert torch.equal(plain_weights(load_pickled(tmp_path / "a.bin"))["a"].float(), weight.float())
