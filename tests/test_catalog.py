"""The table of published models: what it says, what follows, and which files a repository gives."""

from pathlib import Path

import pytest

from edge_llm import catalog
from edge_llm.catalog import MODELS, PublishedModel, PublishedSpeed, find_model
from edge_llm.catalog.layout import RemoteFile, Repository, choose_files
from edge_llm.catalog.listing import sources, tokens_per_s
from edge_llm.errors import ConfigurationError, ModelError
from edge_llm.settings import EngineSettings, WorkerSettings
from edge_llm.settings import models as places

ROOT = Path(__file__).parents[1]
UNKNOWN = "?"


def model(name: str) -> PublishedModel:
    found = find_model(name)
    assert found
    return found


def speed_row(model: PublishedModel) -> str:
    """A row of docs/models.md."""
    times, bought = catalog.answer_s(model, 100), catalog.tokens_within(model, 3)
    cells = (
        f"`{model.name}`",
        catalog.speed_class(model),
        tokens_per_s(model),
        f"{times[0]:.1f}-{times[1]:.1f}" if times else UNKNOWN,
        (f"{bought[0]}-{bought[1]}" if bought else UNKNOWN),
        sources(model) or "nobody has published its speed",
    )
    return f"| {' | '.join(cells)} |"


def place_row(model: PublishedModel) -> str:
    """Another row of docs/models.md."""
    cells = (
        f"`{model.name}`",
        f"[{model.repo}](https://huggingface.co/{model.repo})",
        model.repo_source or "not verified",
        model.quantization,
        str(model.context_len or UNKNOWN),
        f"{model.download_bytes / 1e9:.1f} GB" if model.download_bytes else UNKNOWN,
        f"{model.cmm_mib} MiB" if model.cmm_mib else UNKNOWN,
        f"{model.load_s:g} s" if model.load_s else UNKNOWN,
    )
    return f"| {' | '.join(cells)} |"


def test_the_page_has_the_table() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [*map(speed_row, MODELS), *map(place_row, MODELS)]


def test_names_are_names_and_stand_for_one_model_each() -> None:
    known = [name for m in MODELS for name in (m.name, m.repo.lower(), m.folder) if name]
    assert len(set(known)) == len(known)
    assert all(places.is_model_name(m.name) for m in MODELS)
    for text in ("qwen3-4b", "AXERA-TECH/Qwen3-4B", "Qwen3-4B", "qwen3-4b-ax650"):
        assert model(text).name == "qwen3-4b"
    assert find_model("qwen3") is None


@pytest.mark.parametrize(
    ("name", "tokens", "seconds", "verdict"),
    [
        ("qwen2.5-0.5b-int4", 100, 3, "perhaps"),  # by the figure that is in doubt
        ("qwen2.5-0.5b-int4", 100, 4, "yes"),
        ("minicpm4-0.5b", 100, 5, "perhaps"),  # 4.96 s on a Pi 5, 5.2 to 6.9 s on an RK3588
        ("qwen3-0.6b", 100, 3, "no"),
        ("qwen3-4b", 100, 20, "no"),
        ("qwen3-4b", 5, 3, "yes"),
        ("qwen3-4b-int4", 1, 99, "unknown"),
    ],
)
def test_a_budget_is_met_or_not(name: str, tokens: int, seconds: float, verdict: str) -> None:
    assert catalog.meets(model(name), tokens, seconds) == verdict


def test_what_a_time_buys_is_what_takes_that_time() -> None:
    for published in MODELS:
        bought = catalog.tokens_within(published, 3.0)
        if bought is None:
            assert catalog.answer_s(published, 1) is None
            continue
        shortest = catalog.answer_s(published, bought[1])
        longest = catalog.answer_s(published, bought[0])
        assert shortest
        assert longest
        assert shortest[0] <= 3.0 + 1e-9
        assert longest[1] <= 3.0 + 1e-9
        more = catalog.answer_s(published, bought[1] + 1)
        assert more
        assert more[0] > 3.0


def test_boards_without_pcie_and_older_builds_do_not_count_for_a_card() -> None:
    made = PublishedModel(
        name="x",
        repo="a/x",
        repo_source=None,
        quantization="w8a16",
        speeds=(
            PublishedSpeed(90.0, "native", "s", "vendor"),
            PublishedSpeed(80.0, "pi5", "s", "vendor", is_superseded=True),
            PublishedSpeed(70.0, "pi5", "s", "doubtful"),
            PublishedSpeed(9.0, "pi5", "s", "measured", ttft_s=0.5, up_to_tokens_per_s=11.0),
        ),
    )
    assert catalog.speed_class(made) == "slow"
    assert tokens_per_s(made) == "9-70"
    assert catalog.answer_s(made, 9) == (0.5 + 9 / 70, 1.5)
    assert catalog.fits(made) is None


def test_what_fits_depends_on_what_is_free() -> None:
    assert catalog.fits(model("qwen3-4b"))
    assert catalog.fits(model("qwen3-4b"), 6329) is False
    assert catalog.fits(model("qwen3-1.7b"), 3400)


def test_the_nearest_to_a_budget_comes_first() -> None:
    names = [m.name for m in catalog.nearest(MODELS, catalog.Budget(100, 3.0))]
    assert names[0] == "qwen2.5-0.5b-int4"
    assert names[-1] == "qwen3-4b"


def test_a_budget_is_read() -> None:
    assert catalog.Budget.parse("100/3") == catalog.Budget(100, 3.0)
    assert catalog.Budget.parse("8/2.5") == catalog.Budget(8, 2.5)
    for text in ("", "100", "0/3", "3/0", "100/3s", "-1/3", "1e3/3"):
        with pytest.raises(ConfigurationError, match="TOKENS/SECONDS"):
            catalog.Budget.parse(text)


EMBEDDING = "model.embed_tokens.weight.bfloat16.bin"


def graphs(folder: str, prefix: str) -> list[str]:
    names = [f"{prefix}_p128_l{layer}_together.axmodel" for layer in range(2)]
    names += [f"{prefix}_post.axmodel", EMBEDDING]
    return [f"{folder}/{name}" if folder else name for name in names]


def chosen(*paths: str, repo: str = "a/b", folder: str | None = None) -> dict[str, str]:
    files = tuple(RemoteFile(path, len(path), None, None) for path in paths)
    wanted = choose_files(Repository(repo, "0" * 40, files), folder)
    return {file.place: file.remote.path for file in wanted}


def test_a_repository_for_axllm_is_flat() -> None:
    tokenizer = ["tokenizer.json", "tokenizer_config.json", "config.json"]
    found = chosen(*graphs("", "qwen3"), *tokenizer, "axllm", "qwen3_tokenizer.txt")
    assert found.keys() == {*graphs("", "qwen3"), *tokenizer, "qwen3_tokenizer.txt"}


def test_the_tokenizer_has_another_name_than_the_graphs() -> None:
    folder = "deepseek-r1-1.5b-gptq-int4-ax650"
    tokenizer = ["deepseek-r1_tokenizer/tokenizer.json", "deepseek-r1_tokenizer.py"]
    found = chosen(*graphs(folder, "qwen2"), *tokenizer)
    assert found["tokenizer/tokenizer.json"] == tokenizer[0]
    assert tokenizer[1] not in found.values()


def test_a_tokenizer_inside_the_folder_wins() -> None:
    inside = ["m/tokenizer/vocab.json", "m/tokenizer/merges.txt"]
    found = chosen(*graphs("m", "qwen3"), *inside, "qwen3_tokenizer/tokenizer.json")
    assert {"m/tokenizer/vocab.json", "m/tokenizer/merges.txt"} <= set(found.values())
    assert "qwen3_tokenizer/tokenizer.json" not in found.values()


def test_graphs_for_other_chips_are_left() -> None:
    both = [*graphs("m-ax630c", "qwen3"), *graphs("m-AX650", "qwen3"), "t/tokenizer.json"]
    assert set(chosen(*both).values()) == {*graphs("m-AX650", "qwen3"), "t/tokenizer.json"}
    other = [*graphs("m-ax620e", "qwen3"), "t/tokenizer.json"]
    with pytest.raises(ModelError, match="for another chip only, in m-ax620e"):
        chosen(*other)
    with pytest.raises(ModelError, match="for another chip only"):
        chosen(*graphs("", "qwen3"), "tokenizer.json", repo="AXERA-TECH/Qwen3-0.6B-AX637")


def test_of_several_models_one_must_be_said() -> None:
    both = [*graphs("int8", "qwen3"), *graphs("int4", "qwen3"), "t/tokenizer.json"]
    with pytest.raises(ModelError, match="in int4, int8; say which with --folder"):
        chosen(*both)
    assert set(chosen(*both, folder="int8/").values()) >= set(graphs("int8", "qwen3"))
    with pytest.raises(ModelError, match="has no graphs in 'int2'"):
        chosen(*both, folder="int2")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (EMBEDDING, f"no {EMBEDDING} beside them"),  # SmolLM3-3B has it as .npy
        ("qwen3_post.axmodel", "no [*]_post.axmodel beside them"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_fetched(missing: str, words: str) -> None:
    paths = [*graphs("m", "qwen3"), "t/tokenizer.json"]
    with pytest.raises(ModelError, match=words):
        chosen(*(path for path in paths if not path.endswith(missing)))


def test_two_tokenizers_of_no_known_family_are_refused() -> None:
    both = ["a_tokenizer/tokenizer.json", "b_tokenizer/tokenizer.json"]
    with pytest.raises(ModelError, match="several tokenizers, in a_tokenizer, b_tokenizer"):
        chosen(*graphs("m", "qwen3"), *both)


def test_a_name_is_looked_for_here_and_then_among_the_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models_dir = tmp_path / "models"
    (models_dir / "lamp").mkdir(parents=True)
    worker = WorkerSettings(model=Path("lamp"), models_dir=models_dir)
    assert worker.model_directory() == models_dir / "lamp"
    backup = EngineSettings.model_validate(
        {"worker": {"models_dir": models_dir}, "backup": {"kind": "worker", "model": "lamp"}}
    ).second()
    assert backup
    assert backup.worker.model_directory() == models_dir / "lamp"
    (tmp_path / "lamp").mkdir()
    assert worker.model_directory() == Path("lamp")
    assert WorkerSettings(model=Path("/srv/lamp")).model_directory() == Path("/srv/lamp")
    assert WorkerSettings().model_directory() is None
    with pytest.raises(ModelError, match="get it with 'edge-llm model get moon'"):
        WorkerSettings(model=Path("moon"), models_dir=models_dir).model_directory()
    (models_dir / ".moon.partial").mkdir()
    with pytest.raises(ModelError, match="is not finished; go on with it"):
        WorkerSettings(model=Path("moon"), models_dir=models_dir).model_directory()


def test_models_are_where_the_service_has_them_or_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SYSTEM_MODELS_DIR", tmp_path / "system")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert places.default_models_dir() == tmp_path / "data" / "edge-llm" / "models"
    (tmp_path / "system").mkdir()
    assert places.default_models_dir() == tmp_path / "system"
