"""AXERA-TECH's directories as they are published: they load, or one sentence says what is wrong.

What a directory without a card shows is in ``test_model``; here the graphs are loaded, on the
virtual card. The layouts are those of facts/ax650.md, sections 1.1 and 1.4.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.model import EMBEDDING_FILE
from edge_llm.errors import ModelError
from edge_llm.protocol import ChatRequest, Delta
from edge_llm.settings import EngineSettings, WorkerSettings
from edge_llm.tiny import MODEL_DIR
from tests.cards import open_model
from tests.programs import require_program
from tests.test_card import greedy, tokens
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.pack import Geometry, Timing, pack, pack_hollow

SMALL = Geometry(2, 64, 128, 4, 2, 16, 2048, Timing())
LADDER_OF_256 = (1, 256, 512, 1024, 1536, 2048)
LADDER_OF_128 = (1, 128, 256, 384, 512, 640, 768, 896, 1024)
CLUTTER = ("main_axcl_aarch64", "main_api_ax650", "run_qwen3_4b.sh", "README.md", "config.json")


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(MODEL_DIR, tmp_path_factory.mktemp("packed") / "m", last_n=1023, ladder=(1, 128))


@pytest.fixture
def published(packed: Path, tmp_path: Path) -> Path:
    """The built-in model, laid out as the vendor's Qwen3-4B is."""
    folder = tmp_path / "Qwen3-4B" / "qwen3-4b-ax650"
    shutil.copytree(packed, folder)
    (folder / "config.json").write_bytes(b"")
    (folder / "post_config.json").write_text('{"enable_temperature": true, "temperature": 0.9}')
    for name in CLUTTER:
        (folder.parent / name).write_bytes(b"")
    (tokenizer,) = (path for path in folder.iterdir() if path.is_dir())
    tokenizer.rename(folder.parent / "qwen3_tokenizer")
    return folder


@pytest.fixture
def card() -> Iterator[Card]:
    with open_card() as card:
        yield card


def load(model: Path, card: Card, *, self_test: bool = False) -> LocalEngine:
    worker = WorkerSettings(model=model, axcl_library=card.path, self_test=self_test)
    return load_engine(EngineSettings(worker=worker))


def answer(engine: LocalEngine) -> str:
    request = ChatRequest(prompt="What is 3 plus 4?", temperature=0.0)
    return "".join(e.text for e in engine.generate(request) if isinstance(e, Delta))


def refusal(model: Path, card: Card) -> str:
    with pytest.raises(ModelError) as caught:
        load(model, card)
    assert not card.counter("live_allocations")
    assert not card.counter("models")
    return caught.value.message


@pytest.mark.parametrize(
    ("last_n", "ladder"),
    [
        (2559, LADDER_OF_256),  # Qwen3-4B, first build
        (2559, (1, 512, 1024, 1536, 2048)),  # Qwen3-0.6B and 1.7B, older builds
        (2047, LADDER_OF_128),  # Qwen3-1.7B, newer
        (1023, (1, 128, 256, 384, 512, 640, 768, 896)),
        (1024, ()),  # Qwen2.5-1.5B-GPTQ-Int4: no prefill groups
    ],
)
def test_all_caches_and_ladders_load(last_n: int, ladder: tuple[int, ...], tmp_path: Path) -> None:
    path = pack_hollow(SMALL, tmp_path / "m", last_n=last_n, ladder=ladder)
    with open_model(path) as model:
        assert model.geometry.context_len == last_n + 1
        histories = [0 if capacity == 1 else capacity for capacity in ladder]
        assert model.geometry.groups == ((1, last_n), *((128, rows) for rows in histories))
        runner = model.runner()
        greedy(runner, tokens(400), 3)
        assert len(runner.cached_ids) == 402
        greedy(runner, tokens(last_n, seed=2), 2)  # to the very end of the context
        assert len(runner.cached_ids) == last_n + 1
        assert not model.card.counter("refusals")


def test_a_model_that_can_only_decode_answers(tmp_path: Path, card: Card) -> None:
    path = pack(MODEL_DIR, tmp_path / "m", last_n=1024, ladder=())  # as Qwen2.5-1.5B-GPTQ-Int4
    engine = load(path, card, self_test=True)
    assert "7" in answer(engine)
    assert engine.info.context_len == 1025
    assert list(card.executes()) == [0]
    engine.close()


def test_a_clone_with_an_empty_config_answers(published: Path, card: Card) -> None:
    engine = load(published, card)
    assert "7" in answer(engine)
    assert engine.info.id == "qwen3-4b-ax650"
    engine.close()


@pytest.mark.parametrize("name", ["qwen3_tokenizer", "tokenizer", "qwen3-4b_tokenizer"])
def test_the_tokenizer_folder_has_several_names(name: str, published: Path, card: Card) -> None:
    (published.parent / "qwen3_tokenizer").rename(published / name)
    engine = load(published, card)
    assert "7" in answer(engine)
    engine.close()


@pytest.mark.parametrize(
    "names",
    [
        ("qwen3", "qwen3_tokenizer", "qwen2.5_tokenizer"),
        ("qwen2", "qwen2.5_tokenizer", "qwen3_tokenizer"),
    ],
)
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_of_two_tokenizers_that_of_the_family_is_taken(
    names: tuple[str, str, str], place: str, published: Path, card: Card
) -> None:
    prefix, right, wrong = names
    for file in published.glob("qwen3_*.axmodel"):
        file.rename(published / file.name.replace("qwen3", prefix))
    folder = published if place == "inside" else published.parent
    tokenizer = (published.parent / "qwen3_tokenizer").rename(published.parent / "moved")
    shutil.copytree(tokenizer, folder / wrong)
    (folder / wrong / "tokenizer.json").write_text("{}")
    tokenizer.rename(folder / right)
    engine = load(published, card)
    assert "7" in answer(engine)
    engine.close()


def test_a_config_of_ax_llm_names_the_model(published: Path, card: Card) -> None:
    config = {"model_name": "AXERA-TECH/Qwen3-4B", "axmodel_num": 6, "tokens_embed_size": 192}
    (published / "config.json").write_text(json.dumps(config))
    engine = load(published, card)
    assert engine.info.id == "AXERA-TECH/Qwen3-4B"
    engine.close()


def test_what_macos_leaves_beside_files_is_no_model(published: Path, card: Card) -> None:
    for file in list(published.glob("*.axmodel")):
        (published / f"._{file.name}").write_bytes(b"Mac OS X")
    engine = load(published, card)
    assert "7" in answer(engine)
    engine.close()


def test_the_clone_itself_is_no_model_directory(published: Path, card: Card) -> None:
    message = refusal(published.parent, card)
    assert f"in {published.parent}; point 'model' at the folder that has them" in message


@pytest.mark.parametrize("name", ["qwen3_p128_l3_together.axmodel", "qwen3_post.axmodel"])
def test_a_file_that_is_cut_off_is_named(name: str, published: Path, card: Card) -> None:
    file = published / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = refusal(published, card)
    assert f"the card can't load {file}" in message
    assert "copy it again" in message


def test_a_layer_that_is_missing_is_named(published: Path, card: Card) -> None:
    (published / "qwen3_p128_l2_together.axmodel").unlink()
    assert "qwen3_p128_l2_together.axmodel is missing" in refusal(published, card)


def test_last_layers_that_are_missing_are_noticed_where_a_config_tells(
    published: Path, card: Card
) -> None:
    (published / "config.json").write_text('{"axmodel_num": 6}')
    (published / "qwen3_p128_l5_together.axmodel").unlink()
    message = refusal(published, card)
    assert f"{published} has 5 layers, but its config.json tells of 6; " in message


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_p128_l5_together.axmodel",
        "qwen3_post.axmodel",
        EMBEDDING_FILE,
        "../qwen3_tokenizer/tokenizer.json",
    ],
)
def test_a_pointer_is_named_with_the_cure(name: str, published: Path, card: Card) -> None:
    file = (published / name).resolve()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 118040663\n"
    file.write_text(pointer)
    message = refusal(published, card)
    assert f"{file} is a Git LFS pointer" in message
    assert "git lfs pull" in message


@pytest.mark.parametrize(
    ("num_bytes", "complaint"),
    [
        (1000 * 192 * 2, "has 1000 rows, but qwen3_post.axmodel knows 2048 tokens"),
        (2048 * 240 * 2, "has 2560 rows, but qwen3_post.axmodel knows 2048 tokens"),  # 240 wide
        (2048 * 192, "has 1024 rows, but qwen3_post.axmodel knows 2048 tokens"),  # cut in half
        (2048 * 192 * 2 - 4096, "has 782336 bytes, which is no multiple of the 384 bytes"),
    ],
)
def test_an_embedding_table_of_another_size_is_named(
    num_bytes: int, complaint: str, published: Path, card: Card
) -> None:
    table = published / EMBEDDING_FILE
    table.write_bytes((2 * table.read_bytes())[:num_bytes])
    message = refusal(published, card)
    assert f"{table} {complaint}" in message
    assert "of another model: export or copy the model again" in message


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path, card: Card) -> None:
    small = Geometry(2, 64, 128, 4, 2, 16, 1024, Timing())
    path = pack_hollow(small, tmp_path / "m", ladder=(), tokenizer=MODEL_DIR / "tokenizer")
    message = refusal(path, card)
    assert "has 2048 tokens, but qwen3_post.axmodel knows 1024" in message
    assert "the tokenizer of another model" in message
