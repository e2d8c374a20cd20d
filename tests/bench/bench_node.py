"""A whole node on the built-in model: ``python -m tests.bench.bench_node``.

Measures the time from ``edge-llm demo`` to its first answer, the time that Ctrl-C takes, and the
resident memory of the two processes of ``edge-llm serve`` at rest. Prints a table and JSON.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.brokers import Mosquitto
from tests.programs import free_port

ROUNDS = 5
EDGE_LLM = Path(sys.executable).parent / "edge-llm"


def start(command: str, mqtt_port: int, output: Path) -> subprocess.Popen[bytes]:
    """Start a command of ``edge-llm`` with its output in a file."""
    environment = {
        **os.environ,
        "EDGE_LLM_MQTT__PORT": str(mqtt_port),
        "EDGE_LLM_HTTP__PORT": str(free_port()),
        "EDGE_LLM_STORE__DIRECTORY": str(output.parent),
    }
    with output.open("wb") as file:
        return subprocess.Popen(
            [EDGE_LLM, command], stdout=file, stderr=subprocess.STDOUT, env=environment
        )


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_demo(folder: Path) -> tuple[float, float]:
    """Return seconds to the first answer, and to the end after Ctrl-C."""
    output = folder / "demo.txt"
    begin = time.monotonic()
    process = start("demo", free_port(), output)
    wait(lambda: "since the start" in output.read_text())
    answered = time.monotonic() - begin
    wait(lambda: "Ctrl-C" in output.read_text())
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(10)
    return answered, time.monotonic() - begin


def measure_memory(folder: Path) -> tuple[float, float]:
    """Return the resident memory of core and worker, in MB, after an answer and at rest."""
    with Mosquitto(folder) as mosquitto:
        output = folder / "serve.txt"
        process = start("serve", mosquitto.port, output)
        try:
            wait(lambda: "model.loaded" in output.read_text())
            subprocess.run(
                [EDGE_LLM, "ask", "--port", str(mosquitto.port), "Who are you?"],
                check=True,
                capture_output=True,
            )
            time.sleep(2)
            found = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
            )
            worker = int(found.stdout.split()[0])
            return resident_mb(process.pid), resident_mb(worker)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demos = [measure_demo(folder) for _ in range(ROUNDS)]
        core_mb, worker_mb = measure_memory(folder)
    result = {
        "demo_first_answer_s": round(statistics.median(answered for answered, _ in demos), 2),
        "demo_first_answer_worst_s": round(max(answered for answered, _ in demos), 2),
        "demo_stop_s": round(statistics.median(stopped for _, stopped in demos), 2),
        "core_resident_mb": round(core_mb, 1),
        "worker_resident_mb": round(worker_mb, 1),
    }
    for key, value in result.items():
        print(f"{key:28} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
