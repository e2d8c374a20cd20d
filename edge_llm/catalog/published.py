"""The models that are published for this card: where they are, what they take, how fast they are.

Every figure is somebody's published one, and names where it stands; what nobody published is None.
None of them was measured by this project, which had no card at hand: ``edge-llm bench`` says what
your own machine does. The sources:

* vendor: README of the model's repository, as cloned (gregm123456/Qwen3-4B)
* M5Stack: its guide to the LLM-8850, docs.m5stack.com
* AXCL: AXERA's own benchmark page (AXERA-TECH/axcl-docs-en, doc_guide_npu_benchmark), January 2026
* hub: the model's own page on Hugging Face
* Radxa's guide to the AX-M1: docs.radxa.com; another card with the same chip
* CM3588: MasterVVK/cm3588-ax650n-pcie-tuning, an RK3588 board with one lane of PCIe 2.0, tuned
* WOOL: woolcoxm/Axera-AX8850-GGUF-Support, a runtime of his own on a Pi 5
* CORTEX, DOM (dominicmooney007/pi5-ax650n-llm), G25
  (gregm123456/Qwen2.5_chat_completion_service_llm8850): people who measured theirs on a Pi 5
"""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CMM_FREE_MIB",
    "MODELS",
    "Certainty",
    "Host",
    "PublishedModel",
    "PublishedSpeed",
    "find_model",
]

Host = Literal["pi5", "rk3588", "native", "unstated"]
"""Where the program ran: ``native`` is on the chip's own board, without PCIe in between."""
Certainty = Literal["measured", "vendor", "doubtful"]
"""``doubtful``: it may leave out what the host and PCIe cost; see the models' page of the docs."""

CMM_FREE_MIB = 7022
"""What an idle card of 8 GB has free: 7040 MiB less the 18 that are always in use (M5Stack)."""


@dataclass(frozen=True, slots=True)
class PublishedSpeed:
    """How fast somebody saw a model."""

    tokens_per_s: float
    """Decode; the least of a published range."""
    host: Host
    source: str
    certainty: Certainty
    ttft_s: float | None = None
    """Time to the first token, in seconds, of a prompt of one chunk (up to 128 tokens)."""
    up_to_tokens_per_s: float | None = None
    """The most of a published range; None if it is one figure."""
    prompt_tokens: int | None = None
    is_superseded: bool = False
    """The same source has a newer figure, or a newer build is faster."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model that is published for the AX650."""

    name: str
    """What ``edge-llm model get`` and ``serve --model`` call it; also its directory's name."""
    repo: str
    """On Hugging Face."""
    repo_source: str | None
    """Where its id was read; None if nowhere, and it is a guess from the others' names."""
    quantization: str
    speeds: tuple[PublishedSpeed, ...]
    """The first is the one to compare with: a Pi 5 and the vendor's program, where that exists."""
    layers: int | None = None
    hidden_size: int | None = None
    kv_dim: int | None = None
    """Values of a K or V row."""
    context_len: int | None = None
    """Most tokens of prompt and answer, of the build that was last described."""
    download_bytes: int | None = None
    """About how much is fetched; the hub tells it exactly."""
    cmm_mib: int | None = None
    """Card memory that it took with the vendor's program, in MiB."""
    load_s: float | None = None
    """From the start to the first token, in seconds, with the vendor's program on a Pi 5."""
    folder: str | None = None
    """The folder of its repository with the graphs, where that is known."""
    notes: str = ""


MODELS: tuple[PublishedModel, ...] = (
    PublishedModel(
        name="qwen2.5-0.5b-int4",
        repo="AXERA-TECH/Qwen2.5-0.5B-Instruct-GPTQ-Int4",
        repo_source="hub, M5Stack",
        quantization="w4a16",
        layers=24,
        hidden_size=896,
        kv_dim=128,
        context_len=1025,
        load_s=11.6,
        folder="qwen2.5-0.5b-gptq-int4-ax650",
        speeds=(
            PublishedSpeed(27.05, "pi5", "M5Stack", "vendor"),
            PublishedSpeed(40.0, "pi5", "AXCL", "doubtful", ttft_s=0.080, prompt_tokens=128),
            PublishedSpeed(28.0, "unstated", "M5Stack", "vendor", ttft_s=0.188, is_superseded=True),
            PublishedSpeed(32.0, "native", "hub", "vendor"),
        ),
    ),
    PublishedModel(
        name="minicpm4-0.5b",
        repo="AXERA-TECH/MiniCPM4-0.5B",
        repo_source="hub, M5Stack",
        quantization="w8a16",
        layers=24,
        hidden_size=1024,
        kv_dim=128,
        context_len=1024,
        cmm_mib=572,
        load_s=22.2,
        folder="minicpm4-0.5b-int8-ctx-ax650",
        speeds=(
            PublishedSpeed(21.05, "pi5", "M5Stack", "vendor", ttft_s=0.213, prompt_tokens=10),
            PublishedSpeed(
                15.0, "rk3588", "CM3588", "measured", ttft_s=0.234, up_to_tokens_per_s=20.0
            ),
            PublishedSpeed(36.0, "native", "CM3588", "vendor"),
        ),
        notes="not of the Qwen family, which edge-llm was written for: it may not load",
    ),
    PublishedModel(
        name="smollm2-360m",
        repo="AXERA-TECH/SmolLM2-360M-Instruct",
        repo_source="Radxa's guide to the AX-M1",
        quantization="w8a16",
        layers=32,
        hidden_size=960,
        download_bytes=1_300_000_000,
        speeds=(
            PublishedSpeed(20.8, "pi5", "CM3588", "vendor"),
            PublishedSpeed(13.0, "rk3588", "CM3588", "measured", up_to_tokens_per_s=16.0),
            PublishedSpeed(38.7, "native", "CM3588", "vendor"),
        ),
        notes="not of the Qwen family, which edge-llm was written for: it may not load; English",
    ),
    PublishedModel(
        name="qwen3-0.6b",
        repo="AXERA-TECH/Qwen3-0.6B",
        repo_source="hub, M5Stack",
        quantization="w8a16",
        layers=28,
        hidden_size=1024,
        kv_dim=1024,
        context_len=2560,
        download_bytes=1_200_000_000,
        cmm_mib=1954,
        load_s=36.0,
        folder="qwen3-0.6b-ax650",
        speeds=(
            PublishedSpeed(12.88, "pi5", "M5Stack", "vendor", ttft_s=0.670, prompt_tokens=12),
            PublishedSpeed(13.74, "pi5", "CORTEX", "measured"),
            PublishedSpeed(12.0, "pi5", "DOM", "measured", ttft_s=0.250),
            PublishedSpeed(
                10.0, "rk3588", "CM3588", "measured", ttft_s=0.391, up_to_tokens_per_s=12.0
            ),
            PublishedSpeed(19.6, "pi5", "WOOL, the vendor's graphs", "measured"),
            PublishedSpeed(19.0, "native", "CM3588", "vendor", up_to_tokens_per_s=20.0),
        ),
        notes="a runtime and 4-bit graphs of his own reach 24.5 to 29.9 tokens/s (WOOL)",
    ),
    PublishedModel(
        name="qwen2.5-1.5b-int4",
        repo="AXERA-TECH/Qwen2.5-1.5B-Instruct-GPTQ-Int4",
        repo_source="hub, M5Stack",
        quantization="w4a16",
        layers=28,
        hidden_size=1536,
        kv_dim=256,
        context_len=1025,
        download_bytes=1_600_000_000,
        load_s=28.8,
        folder="qwen2.5-1.5b-gptq-int4-ax650",
        speeds=(
            PublishedSpeed(15.03, "pi5", "M5Stack", "vendor"),
            PublishedSpeed(12.65, "pi5", "G25", "measured", up_to_tokens_per_s=13.86),
            PublishedSpeed(16.0, "pi5", "AXCL", "doubtful", ttft_s=0.150, prompt_tokens=128),
            PublishedSpeed(9.05, "unstated", "M5Stack", "vendor", ttft_s=0.408, is_superseded=True),
        ),
        notes="the build may have no graphs for chunks of a prompt: long prompts are slow then",
    ),
    PublishedModel(
        name="deepseek-r1-1.5b-int4",
        repo="AXERA-TECH/DeepSeek-R1-Distill-Qwen-1.5B-GPTQ-Int4",
        repo_source="hub, M5Stack",
        quantization="w4a16",
        layers=28,
        kv_dim=256,
        context_len=1024,
        load_s=28.8,
        download_bytes=2_400_000_000,
        folder="deepseek-r1-1.5b-gptq-int4-ax650",
        speeds=(
            PublishedSpeed(13.29, "pi5", "M5Stack", "vendor"),
            PublishedSpeed(
                10.2, "rk3588", "CM3588", "measured", ttft_s=0.380, up_to_tokens_per_s=11.0
            ),
        ),
        notes="thinks aloud before it answers: a visitor waits for that",
    ),
    PublishedModel(
        name="qwen3-1.7b",
        repo="AXERA-TECH/Qwen3-1.7B",
        repo_source="M5Stack",
        quantization="w8a16",
        layers=28,
        hidden_size=2048,
        kv_dim=1024,
        context_len=2048,
        download_bytes=2_700_000_000,
        cmm_mib=3357,
        load_s=65.0,
        folder="qwen3-1.7b-ax650",
        speeds=(
            PublishedSpeed(7.38, "pi5", "M5Stack", "vendor", ttft_s=0.796),
            PublishedSpeed(7.70, "pi5", "CORTEX", "measured"),
            PublishedSpeed(
                7.8, "rk3588", "CM3588", "measured", ttft_s=0.447, up_to_tokens_per_s=8.0
            ),
        ),
    ),
    PublishedModel(
        name="qwen2.5-7b-int4",
        repo="AXERA-TECH/Qwen2.5-7B-Instruct-GPTQ-Int4",
        repo_source="hub",
        quantization="w4a16",
        layers=28,
        download_bytes=5_200_000_000,
        folder="qwen2.5-7b-gptq-int4-ax650",
        speeds=(
            PublishedSpeed(4.4, "rk3588", "CM3588", "measured"),
            PublishedSpeed(4.8, "pi5", "AXCL", "doubtful", ttft_s=0.800, prompt_tokens=128),
            PublishedSpeed(4.8, "native", "hub", "vendor"),
        ),
    ),
    PublishedModel(
        name="qwen3-4b",
        repo="AXERA-TECH/Qwen3-4B",
        repo_source="vendor",
        quantization="w8a16",
        layers=36,
        hidden_size=2560,
        kv_dim=1024,
        context_len=1024,
        download_bytes=5_470_000_000,
        cmm_mib=6330,
        load_s=133.0,
        folder="qwen3-4b-ax650",
        speeds=(
            PublishedSpeed(3.65, "pi5", "vendor", "vendor", ttft_s=1.339),
            PublishedSpeed(3.7, "rk3588", "CM3588", "measured", ttft_s=1.110),
            PublishedSpeed(
                4.22, "native", "vendor", "vendor", ttft_s=1.169, up_to_tokens_per_s=4.5
            ),
        ),
        notes="the card memory is that of the first build, with 2560 tokens of context",
    ),
    PublishedModel(
        name="qwen3-4b-int4",
        repo="AXERA-TECH/Qwen3-4B-GPTQ-Int4",
        repo_source="hub",
        quantization="w4a16",
        speeds=(),
        notes="nobody has published its speed",
    ),
)
"""From the fastest to the slowest, as they are on a card in a Pi 5."""


def find_model(name: str) -> PublishedModel | None:
    """Return the model of that name, repository id, name of a repository or name of its folder.

    Upper and lower case are the same. None if no such model is in the table.
    """
    wanted = name.lower()
    for model in MODELS:
        repo = model.repo.lower()
        if wanted in (model.name, repo, repo.partition("/")[2], model.folder):
            return model
    return None
