"""`edge-llm model get`, `list` and `remove`, against a stand-in for the hub; then it is served."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import close_session, constants

from edge_llm.catalog.shelf import RECORD
from edge_llm.cli.program import run
from edge_llm.engine.model import EMBEDDING_FILE, ModelDirectory
from edge_llm.errors import ModelError
from edge_llm.settings import WorkerSettings
from edge_llm.tiny import MODEL_DIR
from tests.hub_stand_in import Fault, Hub
from tests.programs import HOST, free_port, running, serves_http
from tests.test_cli import EDGE_LLM
from tests.virtual_ax650.card import Card

pytestmark = pytest.mark.timeout(120)

REPO = "AXERA-TECH/Qwen3-0.6B"
NAME = "qwen3-0.6b"
MB = 10**6
POST = "qwen3-0.6b-ax650/qwen3_post.axmodel"
CLUTTER = (
    *("main_axcl_x86", "main_ax650", "README.md", "qwen3_tokenizer_uid.py", "config.json"),
    *("run_qwen3_0.6b_int8_ctx_axcl_aarch64.sh", "qwen3_tokenizer/notes.py"),
)


def noise(name: str, num_bytes: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(num_bytes)


def published(post_bytes: int = 3000) -> dict[str, bytes]:
    """The listing of Qwen3-0.6B (M5Stack's guide), with small files."""
    files = {name: name.encode() for name in CLUTTER}
    files["config.json"] = b""
    files["post_config.json"] = b'{"top_k": 1}'
    for chip in ("ax630c", "ax650"):
        folder = f"qwen3-0.6b-{chip}"
        for layer in range(3):
            path = f"{folder}/qwen3_p128_l{layer}_together.axmodel"
            files[path] = noise(path, 2000 + layer)
        files[f"{folder}/qwen3_post.axmodel"] = noise(folder, post_bytes)
        files[f"{folder}/{EMBEDDING_FILE}"] = noise(chip, 4000)
    for tokenizer in ("qwen2.5_tokenizer", "qwen3_tokenizer"):
        for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json"):
            files[f"{tokenizer}/{name}"] = f"{tokenizer} {name}".encode()
    return files


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Of a user who has never downloaded anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "XDG_DATA_HOME": str(tmp_path)}
    return kept | own


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "edge-llm" / "models"


def model(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EDGE_LLM, "model", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@dataclass(frozen=True)
class Here:
    """Runs the command in this process, which is faster."""

    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> str:
        """Return what it printed."""
        self.capsys.readouterr()
        code = run(["model", *arguments])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out

    def refusal(self, *arguments: str) -> str:
        """Return its one line of error."""
        self.capsys.readouterr()
        assert run(["model", *arguments]) == 1
        said = self.capsys.readouterr().err.splitlines()
        assert said[-1].startswith("edge-llm: ")
        return said[-1]


@pytest.fixture
def here(
    hub: Hub,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Here]:
    """The library has read the environment long since."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # another test may want it offline
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{environment['HF_HOME']}/token")
    monkeypatch.setenv("XDG_DATA_HOME", environment["XDG_DATA_HOME"])
    yield Here(capsys)
    close_session()


def files_of(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_what_the_card_needs_is_fetched_and_nothing_else(
    hub: Hub, environment: dict[str, str], here: Here, models_dir: Path
) -> None:
    files = published()
    hub.add(REPO, files)
    done = model(environment, "get", NAME, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["path"] == str(models_dir / NAME)
    assert (said["repo"], said["revision"]) == (REPO, hub.revision(REPO))
    found = files_of(models_dir / NAME)
    graphs = {path: content for path, content in files.items() if "-ax650/" in path}
    wanted = {path.split("/")[1]: content for path, content in graphs.items()}
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json"):
        wanted[f"tokenizer/{name}"] = files[f"qwen3_tokenizer/{name}"]
    wanted |= {"config.json": b"", "post_config.json": files["post_config.json"]}
    assert {place: content for place, content in found.items() if place != RECORD} == wanted
    ModelDirectory(models_dir / NAME)
    fetched = {path: files[path] for path in hub.paths()}
    assert sorted(fetched.values()) == sorted(content for content in wanted.values() if content)
    assert [path.name for path in models_dir.iterdir()] == [NAME]

    listed = json.loads(here.run("list", "--json"))
    names = [entry["name"] for entry in listed["models"] if entry["downloaded"]]
    assert (names, listed["local"][0]["record"]["repo"]) == ([NAME], REPO)

    num_asked = len(hub.asked)
    assert "qwen3-0.6b is here already" in here.run("get", REPO)  # the id means the same
    assert len(hub.asked) == num_asked  # so it needs no network


def test_a_terminal_sees_a_bar(hub: Hub, environment: dict[str, str]) -> None:
    hub.add(REPO, published())
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 100))
    command = [str(EDGE_LLM), "model", "get", NAME]
    with open(writing, "wb") as terminal:
        subprocess.run(command, stderr=terminal, check=True, timeout=60, env=environment)
    shown = os.read(reading, 65536).decode()
    os.close(reading)
    assert "11/11 model.embed_tokens" in shown
    assert "100%" in shown


def test_an_update_takes_the_place_of_what_is_there(hub: Hub, here: Here, models_dir: Path) -> None:
    hub.add(REPO, published())
    here.run("get", NAME)
    assert "is up to date" in here.run("get", NAME, "--update")
    hub.repos[REPO][POST] = noise("newer", 3100)
    assert "is ready" in here.run("get", NAME, "--update")
    assert (models_dir / NAME / "qwen3_post.axmodel").read_bytes() == noise("newer", 3100)
    assert [path.name for path in models_dir.iterdir()] == [NAME]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_fetches_belongs_to_the_service(hub: Hub, here: Here, models_dir: Path) -> None:
    models_dir.mkdir(parents=True)
    os.chown(models_dir, 12345, 12346)
    hub.add(REPO, published())
    here.run("get", NAME)
    made = [models_dir / NAME, *(models_dir / NAME).rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12346)}


def test_a_model_is_removed(hub: Hub, here: Here, models_dir: Path) -> None:
    hub.add(REPO, published())
    here.run("get", NAME)
    assert "are free again" in here.run("remove", NAME)
    assert not list(models_dir.iterdir())
    assert "there is no model qwen3-0.6b" in here.refusal("remove", NAME)
    assert "there is no model .." in here.refusal("remove", "..")
    assert models_dir.is_dir()


def test_a_connection_that_is_cut_is_gone_on_with(
    hub: Hub, environment: dict[str, str], models_dir: Path
) -> None:
    files = published(25 * MB)
    hub.add(REPO, files)
    hub.faults[POST] = Fault(at=22 * MB, kind="cut")
    done = model(environment, "get", NAME)
    assert done.returncode == 0, done.stderr
    first, second = [served for served in hub.served if served.path == POST]
    # The library writes in steps of 10 MiB: what it had of the third is asked for again.
    assert (first.first, second.first) == (0, 2 * 10 * 2**20)
    assert second.sent == 25 * MB - second.first
    assert (models_dir / NAME / "qwen3_post.axmodel").read_bytes() == files[POST]


def test_after_ctrl_c_only_the_rest_is_asked_for(
    hub: Hub, environment: dict[str, str], here: Here, models_dir: Path
) -> None:
    files = published(25 * MB)
    hub.add(REPO, files)
    hub.faults[POST] = Fault(at=22 * MB, kind="stall")
    patient = {**environment, "HF_HUB_DOWNLOAD_TIMEOUT": "120"}  # else it would go on by itself
    # In the background the shell has programs ignore Ctrl-C, and their children, too.
    heeds = ["env", "--default-signal=INT"]
    process = subprocess.Popen(
        [*heeds, EDGE_LLM, "model", "get", NAME], stderr=subprocess.PIPE, text=True, env=patient
    )
    assert hub.stalled.wait(30)
    wait_for_bytes(models_dir, 2 * 10 * 2**20)
    other = here.refusal("get", NAME)
    assert "is being written to by another 'edge-llm model get'" in other
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "run 'edge-llm model get qwen3-0.6b' to go on" in said
    assert "Traceback" not in said

    assert not (models_dir / NAME).exists()  # a half-finished one is never served
    with pytest.raises(ModelError, match=r"download of qwen3-0\.6b is not finished"):
        WorkerSettings(model=Path(NAME)).model_directory()
    assert "not finished; go on: edge-llm model get qwen3-0.6b" in here.run("list")

    before = len(hub.served)
    done = model(environment, "get", NAME)
    assert done.returncode == 0, done.stderr
    assert "21 MB of them from before" in done.stderr
    assert [(s.path, s.first, s.sent) for s in hub.served[before:]] == [
        (POST, 20 * 2**20, 25 * MB - 20 * 2**20)
    ]
    assert (models_dir / NAME / "qwen3_post.axmodel").read_bytes() == files[POST]


def wait_for_bytes(models_dir: Path, num_bytes: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        parts = list(models_dir.rglob("*.part"))
        if parts and parts[0].stat().st_size >= num_bytes:
            return
        time.sleep(0.02)
    pytest.fail("nothing arrives")


def test_bytes_that_are_wrong_are_fetched_again_and_then_refused(
    hub: Hub, here: Here, models_dir: Path
) -> None:
    files = published()
    hub.add(REPO, files)
    hub.faults[POST] = Fault(at=100, kind="flip")
    hub.faults["qwen3_tokenizer/merges.txt"] = Fault(at=3, kind="flip", times=2)
    said = here.refusal("get", NAME)
    assert "qwen3_tokenizer/merges.txt of AXERA-TECH/Qwen3-0.6B has another checksum" in said
    assert not (models_dir / NAME).exists()
    here.run("get", NAME)
    assert hub.paths().count(POST) == 2
    assert (models_dir / NAME / "qwen3_post.axmodel").read_bytes() == files[POST]


def test_an_older_half_is_not_mixed_with_a_newer_commit(
    hub: Hub, here: Here, models_dir: Path
) -> None:
    hub.add(REPO, published())
    layer = "qwen3-0.6b-ax650/qwen3_p128_l1_together.axmodel"
    hub.faults["qwen3-0.6b-ax650/qwen3_p128_l2_together.axmodel"] = Fault(0, "flip", times=2)
    here.refusal("get", NAME)
    newer = noise("newer", 2001)  # of the same length
    hub.repos[REPO][layer] = newer
    here.run("get", NAME)
    assert (models_dir / NAME / "qwen3_p128_l1_together.axmodel").read_bytes() == newer


def test_a_gated_model_says_where_its_licence_is_accepted(
    hub: Hub, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, published())
    hub.gated.add(REPO)
    said = here.refusal("get", NAME)
    assert f"accept its licence on {hub.url}/{REPO}" in said
    assert "HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    here.run("get", NAME)


def test_a_name_that_is_wrong_is_told_with_the_cure(hub: Hub, here: Here) -> None:
    hub.add(REPO, published())
    assert "did you mean qwen3-4b?" in here.refusal("get", "qwen-4b")
    missing = here.refusal("get", "acme/nothing")
    assert f"there is no model acme/nothing on {hub.url}" in missing
    assert "no revision 'v9'" in here.refusal("get", NAME, "--revision", "v9")
    assert "'a//b' is not the id" in here.refusal("get", "a//b")
    assert "write a budget as TOKENS/SECONDS" in here.refusal("list", "--budget", "fast")


def test_a_repository_without_a_model_for_the_card_is_refused(hub: Hub, here: Here) -> None:
    hub.add("acme/weights", {"model.safetensors": b"x", "config.json": b"{}"})
    assert "use 'edge-llm export'" in here.refusal("get", "acme/weights")
    hub.add("acme/words", {"README.md": b"x"})
    assert "there is no *_l0_together.axmodel in it" in here.refusal("get", "acme/words")
    assert not hub.served


def test_a_model_with_a_gap_never_becomes_visible(hub: Hub, here: Here, models_dir: Path) -> None:
    files = published()
    hub.add("acme/gap", {p: c for p, c in files.items() if "ax650/qwen3_p128_l1" not in p})
    assert "qwen3_p128_l1_together.axmodel is missing" in here.refusal("get", "acme/gap")
    assert not (models_dir / "gap").exists()


def test_the_disk_is_looked_at_before_anything_is_fetched(
    hub: Hub, here: Here, tmp_path: Path
) -> None:
    hub.add("acme/huge", published())
    hub.sizes[POST] = 10**16
    said = here.refusal("get", "acme/huge")
    assert "huge needs 10000000.00 GB on the disk and 67 MB to spare" in said
    assert "GB free" in said
    (tmp_path / "file").write_text("")
    del hub.sizes[POST]
    said = here.refusal("get", "acme/huge", "--dir", str(tmp_path / "file"))
    assert f"can't write {tmp_path / 'file'}" in said
    assert not hub.served


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    hub: Hub, environment: dict[str, str], here: Here
) -> None:
    """Another program may take the room meanwhile; here it is a limit on the size of a file."""
    hub.add(REPO, published(25 * MB))
    command = 'trap "" XFSZ; ulimit -f 20000; exec "$0" model get "$1"'  # of 1024 bytes
    done = subprocess.run(
        ["bash", "-c", command, EDGE_LLM, NAME],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert "can't write" in done.stderr.splitlines()[-1]
    assert "what has arrived is kept" in done.stderr.splitlines()[-1]
    num_served = len(hub.served)
    here.run("get", NAME)
    assert hub.paths()[num_served:] == [POST]


def test_without_the_network_it_says_so(
    hub: Hub, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{HOST}:{free_port()}")
    said = here.refusal("get", NAME)
    assert "can't be reached" in said
    assert "is this machine on the network?" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in here.refusal("get", NAME)


@contextmanager
def serving(arguments: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    url = f"http://{HOST}:{(port := free_port())}"
    command = [str(EDGE_LLM), "serve", "--no-mqtt", *arguments]
    own = {"EDGE_LLM_HTTP__PORT": str(port), "XDG_STATE_HOME": str(folder / "state")}
    log = folder / "serve.log"
    with running(command, log, lambda: serves_http(f"{url}/health/ready"), environment | own):
        yield url


def ask(url: str, prompt: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def test_a_model_of_the_list_is_served_by_its_name_on_the_card(
    hub: Hub, environment: dict[str, str], card_model_dir: Path, card: Card, tmp_path: Path
) -> None:
    graphs = files_of(card_model_dir)
    files = {f"qwen3-0.6b-ax650/{path}": content for path, content in graphs.items()}
    (folder,) = {path.split("/")[0] for path in graphs if "/" in path}
    prefix = f"qwen3-0.6b-ax650/{folder}/"
    hub.add(REPO, {path.replace(prefix, "qwen3_tokenizer/"): c for path, c in files.items()})
    assert model(environment, "get", NAME).returncode == 0
    environment |= card.environment | {"EDGE_LLM_ENGINE__WORKER__AXCL_LIBRARY": str(card.path)}
    with serving(["--model", NAME], environment, tmp_path) as url:
        answer = ask(url, "What is 3 plus 4?")
    assert "7" in answer["choices"][0]["message"]["content"]


def test_any_repository_is_served_by_the_name_in_the_settings(
    hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.add_directory("acme/tiny-onnx", MODEL_DIR)
    elsewhere = tmp_path / "big disk"
    config = tmp_path / "edge-llm.toml"
    worker = f'[engine.worker]\nmodel = "tiny-onnx"\nmodels_dir = "{elsewhere}"\n'
    config.write_text(worker)
    done = model(environment, "get", "acme/tiny-onnx", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "tiny-onnx").is_dir()
    with serving(["--config", str(config)], environment, tmp_path) as url:
        answer = ask(url, "What is 3 plus 4?")
    assert "7" in answer["choices"][0]["message"]["content"]
