"""The page through which processes see one card: a file of fixed layout that they map.

All values are signed numbers of 8 bytes, in the machine's order, from byte 16 on, in the order of
``FIELDS``; before them is ``MAGIC``. ``shared.c`` has the same layout, as far as it needs it.
"""

import mmap
import os

__all__ = ["FIELDS", "MAGIC", "Shared"]

MAGIC = b"VIRTUAL-AX650-S1"
"""Its last character changes with the layout."""
PAGE = 4096

FIELDS = (
    "owner",  # process id of who activated the device last; 0 is nobody
    "busy_ns",  # time in executes, and what COST charged for them
    "running",  # calls of the owner that are at the device now, also those that hang
    "cmm_total",  # bytes, as all of these
    "cmm_idle",  # what the card uses itself
    "cmm_used",  # what the owner uses
    "cmm_leaked",  # what the owner lost; raised by a test, 0 for each new owner
    "millidegrees",
    "reboots",  # a process that sees it change has lost what it had on the card
    # What follows is only between axcl-smi and tests:
    "reboot_requests",  # those that were answered with y, also those that failed
    "sampled_busy_ns",  # busy_ns and the monotonic clock at the latest reading of the load
    "sampled_at_ns",
    "npu_percent",  # as of that reading
)
MIB = 1024 * 1024


class Shared:
    """The page of a file, which stays open until ``close``.

    Raises:
        ValueError: the file has another layout.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if size != PAGE or os.pread(file, len(MAGIC), 0) != MAGIC:
                raise ValueError(f"{self.path} is of another layout; make a new one")
            self._map = mmap.mmap(file, PAGE)
        finally:
            os.close(file)
        self._values = memoryview(self._map)[len(MAGIC) :].cast("q")

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "Shared":
        """Make a new file: a card of 7040 MiB at 45 °C that nobody uses."""
        with open(path, "xb") as file:
            file.write(MAGIC.ljust(PAGE, b"\0"))
        shared = cls(path)
        shared["cmm_total"], shared["cmm_idle"] = 7040 * MIB, 18876 * 1024
        shared["millidegrees"] = 45000
        return shared

    def close(self) -> None:
        """Give the mapping back; the file stays."""
        self._values.release()
        self._map.close()

    def __getitem__(self, field: str) -> int:
        return int(self._values[FIELDS.index(field)])

    def __setitem__(self, field: str, value: int) -> None:
        self._values[FIELDS.index(field)] = value

    @property
    def busy_s(self) -> float:
        """How long the NPU has worked, in seconds."""
        return self["busy_ns"] / 1e9

    @property
    def celsius(self) -> float:
        """The temperature that the card tells."""
        return self["millidegrees"] / 1000

    @celsius.setter
    def celsius(self, value: float) -> None:
        self["millidegrees"] = round(1000 * value)

    @property
    def has_owner(self) -> bool:
        """Whether a process that lives has the device."""
        return self["owner"] > 0 and _is_alive(self["owner"])

    @property
    def cmm_used_bytes(self) -> int:
        """All memory in use; what a process had that is gone is free again."""
        of_owner = self["cmm_used"] + self["cmm_leaked"] if self.has_owner else 0
        return self["cmm_idle"] + of_owner

    def leak(self, num_bytes: int) -> None:
        """Let the owner lose memory."""
        self["cmm_leaked"] += num_bytes

    def start_reboot(self) -> None:
        """Take what everybody has on the card; their calls fail from now on."""
        for field in ("owner", "cmm_used", "cmm_leaked", "running"):
            self[field] = 0
        self["reboots"] += 1

    def read_npu_percent(self, now_ns: int) -> int:
        """Return the load since the reading before, 0 to 100; an early one says the same again."""
        since_ns = now_ns - self["sampled_at_ns"]
        if since_ns >= SHORTEST_SAMPLE_NS:
            busy_ns = self["busy_ns"] - self["sampled_busy_ns"]
            if self["sampled_at_ns"]:
                self["npu_percent"] = min(round(100 * busy_ns / since_ns), 100)
            self["sampled_busy_ns"], self["sampled_at_ns"] = self["busy_ns"], now_ns
        return self["npu_percent"]


SHORTEST_SAMPLE_NS = 100_000_000


def _is_alive(pid: int) -> bool:
    """Tell whether a process is there; one that nobody has waited for yet is not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
