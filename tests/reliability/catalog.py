"""The rows of the fault matrix."""

from tests.reliability.clocks import FACTOR
from tests.reliability.faults import (
    AWAY_S,
    BROKER_AWAY_S,
    CARD_CODES,
    DIED,
    DISK_FULL_S,
    HOUR_S,
    RAMP_S,
    RESTART_S,
    WITHOUT_CARD,
    Fault,
    card_fails,
    clock_jumps,
    fill_disk,
    kill_both,
    kill_worker,
    leak_memory,
    ramp_temperature,
    start_without_card,
    step_is,
    stop_broker,
    stop_worker,
    tool_is,
    tool_is_missing,
)
from tests.reliability.world import EngineKind

__all__ = ["FAULTS"]

BOTH: tuple[EngineKind, ...] = ("card", "cpu")
CLOCK = frozenset({"clock"})
TOOL_S = 6.0
WEDGED = {"WEDGE": 1}

WORKER = (
    Fault("worker_sigkill", "worker: SIGKILL", kill_worker, engines=BOTH),
    Fault(
        "worker_sigkill_wedges",
        "worker: SIGKILL, and the card is dead if a call was at it",
        kill_worker,
        switches=WEDGED,
    ),
    Fault("worker_sigstop", "worker: SIGSTOP", stop_worker, engines=BOTH),
    Fault(
        "worker_out_of_memory",
        "worker: no memory is left to it (RLIMIT_AS)",
        step_is("hoard"),
        engines=BOTH,
        is_of_load=True,
    ),
    Fault(
        "step_exception",
        "worker: an exception in a step",
        step_is("raise"),
        engines=BOTH,
        is_of_load=True,
    ),
)

CARD = (
    Fault("card_hangs", "card: a call hangs", card_fails("hang"), is_of_load=True),
    Fault(
        "card_hangs_wedges",
        "card: a call hangs, and the card is dead once the worker is killed",
        card_fails("hang"),
        switches=WEDGED,
        is_of_load=True,
    ),
    Fault("card_dies", "card: dies", card_fails("die"), is_of_load=True),
    Fault(
        "card_times_out",
        "card: a call times out after 2 s (0x80300305)",
        card_fails("hang=2,code=0x80300305"),
        is_of_load=True,
    ),
    *(
        Fault(
            f"card_code_{code:08x}",
            f"card: fatal code 0x{code:08X}",
            card_fails(f"code={code}"),
            is_of_load=True,
        )
        for code in CARD_CODES
    ),
    Fault("card_fails_once", "card: a call fails once (0x8030070C)", card_fails("code=0x8030070c")),
    Fault(
        "card_dead_at_start",
        f"card: dead at the start, comes back after {AWAY_S * FACTOR:g} s of plan time",
        start_without_card,
        signs=DIED | WITHOUT_CARD | {"state:recovering", "state:failed"},
        lasts_s=AWAY_S,
        is_fresh=True,
    ),
    Fault(
        "cmm_leak",
        "card: 400 MiB of its memory leak",
        leak_memory,
        signs=frozenset({"log:device.memory_leaks"}),
        is_fresh=True,
    ),
    Fault(
        "temperature_ramp",
        "card: 40 to 90 to 40 °C",
        ramp_temperature,
        signs=frozenset({"heat:warn", "heat:hot", "heat:critical", "heat:emergency"}),
        lasts_s=2 * RAMP_S,
        limit_s=120.0,
        is_fresh=True,
    ),
)

TOOL = (
    Fault("smi_hangs", "axcl-smi hangs", tool_is("hang", TOOL_S), WITHOUT_CARD, lasts_s=TOOL_S),
    Fault("smi_missing", "axcl-smi is missing", tool_is_missing(TOOL_S), WITHOUT_CARD, lasts_s=6),
    Fault(
        "smi_garbage",
        "axcl-smi prints garbage",
        tool_is("garbage", TOOL_S),
        WITHOUT_CARD,
        lasts_s=TOOL_S,
    ),
)

AROUND = (
    Fault(
        "broker_gone",
        "the broker is gone",
        stop_broker,
        signs=frozenset({"log:mqtt.disconnected"}),
        engines=BOTH,
        lasts_s=BROKER_AWAY_S,
    ),
    Fault(
        "disk_full",
        "the disk is full",
        fill_disk,
        signs=frozenset({"log:store.failed"}),
        engines=BOTH,
        lasts_s=DISK_FULL_S,
        needs=frozenset({"small_store"}),
    ),
    Fault(
        "clock_forward",
        "the clock jumps an hour ahead",
        clock_jumps(HOUR_S),
        signs=None,
        engines=BOTH,
        needs=CLOCK,
    ),
    Fault(
        "clock_back",
        "the clock jumps an hour back",
        clock_jumps(-HOUR_S),
        signs=None,
        engines=BOTH,
        needs=CLOCK,
    ),
    Fault(
        "both_killed",
        "core and worker: SIGKILL, started again by systemd",
        kill_both,
        signs=frozenset({"status:offline"}),
        engines=BOTH,
        lasts_s=RESTART_S,
    ),
)

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*WORKER, *CARD, *TOOL, *AROUND)}
"""By name, in the order of the table."""
