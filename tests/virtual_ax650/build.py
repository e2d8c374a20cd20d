"""Compiles the virtual card: ``python -m tests.virtual_ax650.build OUT [VARIANT]``."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

__all__ = ["LIBRARY", "VARIANTS", "Variant", "build"]

Variant = Literal["full", "without_async", "asan"]

LIBRARY = "libaxcl_rt.so"
"""The vendor's name, which ``find_library("axcl_rt")`` looks for."""

FLAGS = (
    *("-std=c11", "-O3", "-g", "-ffp-contract=off", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-pthread", f"-Wl,-soname,{LIBRARY}"),
)
"""Contracting a product and a sum into one operation would change the last bit."""

VARIANTS: dict[Variant, tuple[str, ...]] = {
    "full": (),
    "without_async": ("-DWITHOUT_ASYNC",),
    "asan": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
"""The whole; a runtime without streams and asynchronous calls; one whose memory use is checked."""

SOURCES = Path(__file__).parent


def build(out: Path | None = None, variant: Variant = "full") -> Path:
    """Compile into ``out/<variant>/``, unless that is done; returns the library.

    Raises:
        RuntimeError: the compiler complains.
    """
    out = out or Path(tempfile.gettempdir()) / f"virtual-ax650-{os.getuid()}"
    folder = out / f"{variant}-{_hash(variant)}"
    library = folder / LIBRARY
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{LIBRARY}.{os.getpid()}"
    sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
    command = [os.environ.get("CC", "cc"), *FLAGS, *VARIANTS[variant], "-o", str(partial)]
    done = subprocess.run([*command, *sources, "-lm"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the virtual card does not compile:\n{done.stderr}")
    partial.replace(library)
    return library


def _hash(variant: Variant) -> str:
    digest = hashlib.sha256(repr((FLAGS, VARIANTS[variant])).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    chosen: Variant = next((name for name in VARIANTS if name in sys.argv[2:]), "full")
    print(build(Path(sys.argv[1]), chosen))
