"""What an idle node costs: ``python -m tests.bench.bench_idle [--seconds N]``.

A whole node with fifty presets and fifty routes on a real mosquitto, and nobody asks anything. The
processor time of its two processes, in percent of one core, and of the broker beside it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_node import wait
from tests.brokers import Mosquitto

NUM = 50
BAR_PERCENT = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def settings() -> str:
    """Return a settings file with many personas and buttons."""
    blocks = ['default_preset = "p0"', "[http]", "port = 0"]
    for n in range(NUM):
        blocks += [f"[preset.p{n}]", f'system_prompt = "You are number {n}."', 'prompt = "Who?"']
    for n in range(NUM):
        blocks += ["[[route]]", f'topic = "button/{n}/+"', f'name = "b{n}"', f'preset = "p{n}"']
    return "\n".join([*blocks, ""])


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure(folder: Path, seconds: float) -> dict[str, float]:
    """Return percent of one core, by process."""
    config = folder / "edge-llm.toml"
    config.write_text(settings())
    output = folder / "serve.txt"
    with Mosquitto(folder) as mosquitto, output.open("wb") as file:
        environment = {
            **os.environ,
            "EDGE_LLM_MQTT__PORT": str(mosquitto.port),
            "EDGE_LLM_STORE__DIRECTORY": str(folder),
        }
        command = [sys.executable, "-m", "edge_llm", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            wait(lambda: "model.loaded" in output.read_text())
            time.sleep(3)  # for the personas' beginnings to be computed
            found = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
            )
            pids = {"core": process.pid, "worker": int(found.stdout.split()[0])}
            before = {name: cpu_s(pid) for name, pid in pids.items()}
            time.sleep(seconds)
            return {
                name: round((cpu_s(pid) - before[name]) / seconds * 100, 2)
                for name, pid in pids.items()
            }
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        percent = measure(Path(name), seconds)
    total = round(sum(percent.values()), 2)
    meets = "" if total < BAR_PERCENT else f"  over {BAR_PERCENT:g} %"
    for process, value in percent.items():
        print(f"{process:8} {value:6.2f} % of a core")
    print(f"{'both':8} {total:6.2f} % of a core{meets}")
    print(json.dumps({"bench": "idle", "presets": NUM, "routes": NUM, **percent, "both": total}))


if __name__ == "__main__":
    main()
