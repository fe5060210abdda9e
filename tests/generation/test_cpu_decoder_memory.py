"""Memory of cpu_decoder.c: no access outside it under AddressSanitizer and UBSan, an error where there is none."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config import ModelArgs
from generation.cpu_decoder import COMMAND, SOURCE, CPUDecoder, build_cpu_decoder
from model import Llama
from runtime.errors import RunError

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
ROOT = Path(__file__).parents[2]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def sanitized_library(folder: Path) -> tuple[Path, str]:
    """Return cpu_decoder.c with sanitizers, and the file of AddressSanitizer that must be loaded before all others.

    Skips the test where the compiler has none.
    """
    library = folder / "sanitized.so"
    words = [word for word in COMMAND if word not in ("-O3", "-march=native")]
    build = subprocess.run(
        [*words, *SANITIZERS, SOURCE, "-o", library, "-lm"], capture_output=True, text=True, timeout=120
    )
    if build.returncode:
        pytest.skip(f"the compiler has no sanitizers: {build.stderr[-200:]}")
    linked = subprocess.run(["ldd", library], capture_output=True, text=True, timeout=60).stdout
    asan = re.search(r"=> (\S*/libasan\S*)", linked)
    if not asan:
        pytest.skip("AddressSanitizer is no shared library of this compiler")
    return library, asan[1]


@pytest.fixture
def model(tiny: ModelArgs) -> Llama:
    return Llama(tiny).eval()


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("ldd")), reason="needs a C compiler and ldd")
def test_sanitizers_report_nothing(tmp_path: Path) -> None:
    library, asan = sanitized_library(tmp_path)
    environment = {
        **os.environ,
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees nothing at its end
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",  # two threads on one core must not wait by spinning
        "PYTHONPATH": str(ROOT),
    }
    script = ROOT / "tests" / "helpers" / "sanitized_decoding.py"
    done = subprocess.run(
        [sys.executable, script, library], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0 and done.stdout == "16 cases\n", done.stderr
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr


# Of the calls of malloc, the first and the fourth fail.
SCARCE = """
#include <stdlib.h>
static void *scarce(size_t size) {
    static int calls;
    calls++;
    return calls == 1 || calls == 4 ? NULL : malloc(size);
}
#define malloc scarce
#include "%s"
"""


@needs_compiler
def test_no_memory_is_an_error(model: Llama, tmp_path: Path) -> None:
    source, library = tmp_path / "scarce.c", tmp_path / "scarce.so"
    source.write_text(SCARCE % SOURCE)
    words = [word for word in COMMAND if word != "-O3"]
    subprocess.run([*words, source, "-o", library, "-lm"], check=True, timeout=120)
    decode = CPUDecoder(model, ctypes.CDLL(str(library)))
    cache = model.new_cache(1, 4)
    for _ in range(2):
        with pytest.raises(RunError, match="no memory"):
            decode(5, 0, cache.keys, cache.values)
    assert decode(5, 0, cache.keys, cache.values).isfinite().all()


@needs_compiler
@pytest.mark.parametrize(
    "token, position, message",
    [
        (96, 0, "token 96 .* 96 tokens"),
        (-1, 0, "token -1"),
        (2**32 + 5, 0, "token 4294967301"),  # 5 as a C int
        (5, 4, "position 4 .* 4 tokens"),
        (5, -1, "position -1"),
        (5, 2**32, "position 4294967296"),
    ],
)
def test_tokens_and_positions_outside_are_refused(
    model: Llama, token: int, position: int, message: str
) -> None:
    decode = build_cpu_decoder(model, 1)
    cache = model.new_cache(1, 4)
    with pytest.raises(IndexError, match=message):
        decode(token, position, cache.keys, cache.values)


@needs_compiler
def test_positions_past_the_context_are_refused(model: Llama) -> None:
    decode = build_cpu_decoder(model, 1)
    cache = model.new_cache(1, 40)  # longer than the context of 32
    assert decode(5, 31, cache.keys, cache.values).isfinite().all()
    with pytest.raises(IndexError, match="position 32 .* 32 tokens"):
        decode(5, 32, cache.keys, cache.values)
