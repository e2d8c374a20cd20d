"""Driving the card breaks no memory rule, from opening to the last call: watched by ASan."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import require_program
from tests.tiny_random_model import Kind, write_checkpoint
from tests.virtual_ax650.build import build
from tests.virtual_ax650.pack import pack

SESSION = """
import sys
from pathlib import Path

from edge_llm.errors import DeviceError
from edge_llm.npu.card import VARIANTS
from tests.cards import open_model

PAIRS = (
    ("axclInit", "axclFinalize"),
    ("axclrtSetDevice", "axclrtResetDevice"),
    ("axclrtCreateContext", "axclrtDestroyContext"),
    ("axclrtEngineInit", "axclrtEngineFinalize"),
    ("axclrtEngineLoadFromFile", "axclrtEngineUnload"),
    ("axclrtEngineGetIOInfo", "axclrtEngineDestroyIOInfo"),
    ("axclrtEngineCreateIO", "axclrtEngineDestroyIO"),
    ("axclrtMalloc", "axclrtFree"),
    ("axclrtMallocHost", "axclrtFreeHost"),
    ("axclrtCreateStream", "axclrtDestroyStream"),
)
ids = list(range(3, 103))
for variant in VARIANTS:
    with open_model(
        Path(sys.argv[1]), variant=variant, num_slots=2, library="asan"
    ) as model:
        runner = model.runner()
        for prompt in (ids, ids[50:], ids[:70], [1, 2]):
            list(runner.prefill(prompt))
            for token in range(8):
                runner.decode(token)
        task = "virtual_axcl_task" if variant.is_async else "axclrtEngineExecute"
        model.card.fault(f"{task}:2:code=0x8030070c")
        try:
            runner.decode(9)
        except DeviceError:
            runner.decode(9)
        else:
            raise SystemExit("it did not fail")
        model.stack.close()
        counters = model.card.counters()
        for name in ("models", "live_bytes", "ios", "io_infos", "streams", "leaked_at_reset"):
            assert counters[name] == 0, (name, counters)
        calls = model.card.calls()
        for taken, given_back in PAIRS:  # a context that goes takes its streams along, uncounted
            assert calls[taken] == calls[given_back] > 0, (taken, calls)
print("done")
"""


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_a_session_is_clean(kind: Kind, tmp_path: Path) -> None:
    require_program("cc", "build-essential")
    model = pack(
        write_checkpoint(tmp_path / "hf", kind),
        tmp_path / "model",
        last_n=127,
        ladder=(1, 32, 64),
        chunk_len=16,
    )
    build(variant="asan")
    sanitizer = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        "LD_PRELOAD": sanitizer.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
    }
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(model)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
