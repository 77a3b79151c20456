"""A checkpoint's classifier as other programs open it: `transformers`' folder, or an ONNX file.

Everything is computed in fp32, with the published weights unrounded. The folder is verified before it has its name.

Shapes: B texts, L word pieces, H hidden size, C classes.
"""

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import torch
from jinja2 import Template
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from bertlens.data.batching import TokenRows, packed_batches
from bertlens.data.demo import generate
from bertlens.data.tokenizer import SPECIAL_TOKENS, WordPieces
from bertlens.deploy.predict import LoadedClassifier
from bertlens.deploy.settings import ExportSettings
from bertlens.errors import InputError
from bertlens.model.bert import run_layers
from bertlens.model.checkpoint import Checkpoint
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import ARCHITECTURE
from bertlens.system import stopping
from bertlens.system.escape import one_line_of
from bertlens.system.files import atomic_folder, relative
from bertlens.training.uncertainty import wilson

Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]  # ids and mask [B, L] to logits [B, C]

CARD = Path(__file__).with_name("card.md.jinja")
NEEDS = {"huggingface": ("transformers",), "onnx": ("onnx", "onnxruntime", "onnxscript")}
LARGEST_DIFFERENCE = 1e-5  # of a probability
LICENCES = dict.fromkeys(("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"), "apache-2.0")


def check_packages(format: str) -> None:
    """Raise `InputError` if a package is not installed that a format needs."""
    if missing := [name for name in NEEDS[format] if importlib.util.find_spec(name) is None]:
        raise InputError(f'format={format}: needs {", ".join(missing)}; pip install "bertlens[export]"')


def exact(checkpoint: Checkpoint, *, calibrate: bool = False) -> LoadedClassifier:
    """Load a checkpoint's classifier in fp32. Raises `InputError` for one that other programs cannot compute."""
    if not checkpoint.info.model.attention_mask:
        raise InputError(
            f"checkpoint={checkpoint.path}: attends to padding (model.attention_mask=false), which other programs mask"
        )
    info = replace(checkpoint.info, frozen_dtype="float32", precision="32-true")
    return LoadedClassifier(replace(checkpoint, info=info), calibrate=calibrate)


def export_model(
    config: ExportSettings, loaded: LoadedClassifier, split: datasets.Dataset | None, *, is_own_split: bool = True
) -> None:
    """Write the folder of a format of `NEEDS` and print the largest difference of a probability.

    split: labelled reviews to verify with; None: the demo's texts. is_own_split: the checkpoint's run measured them.
    Raises `InputError` if a probability differs by more than `LARGEST_DIFFERENCE`, or a text has other word pieces.
    """
    check_packages(config.format)
    if config.quantize and split is None:
        raise InputError("quantize=true: its accuracy needs the test reviews, which data.path= names")
    output = Path(config.output).expanduser()
    info, accuracies, metrics = loaded.checkpoint.info, {}, loaded.checkpoint.test_metrics()
    num_test = 0 if split is None else len(split)
    shown = {name: f"{value:.4f}" for name, value in metrics.items()}
    if num_test and is_own_split and "test/accuracy" in metrics:
        shown["test/accuracy"] = _with_interval(metrics["test/accuracy"], num_test)
    with atomic_folder(output, overwrite=config.overwrite) as folder:
        loaded.tokenizer.portable().save(str(folder / "tokenizer.json"))
        run = (_write_huggingface if config.format == "huggingface" else _write_onnx)(loaded, folder)
        demo = [review.text for review in generate(num_reviews=config.reviews, seed=1234)]
        texts = list(demo if split is None else split.shuffle(seed=1234)[: config.reviews]["text"])
        difference = _verify(loaded, folder, run, texts)
        if split is not None and config.quantize:
            pieces, labels = loaded.tokenizer.pieces(split["text"][:]), np.array(split["label"][:])
            for name, each in {"fp32": run, "int8": _quantize(folder)}.items():
                accuracies[name] = _with_interval(
                    float((_classify(each, pieces).argmax(axis=1) == labels).mean()), num_test
                )
        of = "the demo's texts" if split is None else "the test reviews"
        verified = f"{difference:.1e} on {len(texts):,} of {of}"
        template = Template(CARD.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True)
        content = {"info": info, "facts": loaded.checkpoint.facts(), "metrics": shown, "accuracies": accuracies}
        licence = LICENCES.get(info.model.pretrained)
        card = template.render(content, format=config.format, verified=verified, licence=licence, date=date.today())
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"verified  probabilities differ by at most {verified}")
    print("".join(f"accuracy  {name}: {value}\n" for name, value in accuracies.items()), end="")
    print(f"wrote     {one_line_of(relative(output))}")


def _with_interval(share: float, number: int) -> str:
    low, high = wilson(round(share * number), number)
    return f"{100 * share:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f} %, {number:,} reviews)"


def _classify(run: Run, pieces: WordPieces) -> NDArray[np.float64]:
    """Return probabilities [B, C] of texts, in padded batches of similar length."""
    tokens = TokenRows(pieces, [0] * len(pieces))
    found: dict[int, NDArray[np.float64]] = {}
    for rows in packed_batches(pieces.lengths, num_tokens=4096):
        stopping.check()
        ids, mask = tokens.padded(rows)
        logits = torch.from_numpy(run(ids, mask.astype(np.int64))).double()
        found |= dict(zip(rows.tolist(), logits.softmax(dim=1).numpy(), strict=True))
    return np.array([found[row] for row in range(len(pieces))])


def _verify(loaded: LoadedClassifier, folder: Path, run: Run, texts: Sequence[str]) -> float:
    """Return the largest difference of a probability between an exported model and its origin."""
    own, cut = loaded.tokenizer.ids(texts), loaded.checkpoint.info.data
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(list(texts))
    is_same = [
        piece == each.ids or (cut.truncation == "head_tail" and len(each.ids) > cut.max_length)
        for piece, each in zip(own, encoded, strict=True)
    ]
    differences = np.abs(_classify(run, loaded.tokenizer.pieces(texts)) - loaded.classify(texts)).max(axis=1)
    wrong = [n for n, same in enumerate(is_same) if not (same and differences[n] <= LARGEST_DIFFERENCE)]
    if wrong:
        named = "; ".join(f"{texts[n][:40]!r} by {differences[n]:.1e}" for n in wrong[:3])
        raise InputError(
            f"the exported model differs from the checkpoint on {len(wrong)} of {len(texts)} texts: {named}"
        )
    return float(differences.max())


def pooler_scale(classifier: ReviewClassifier) -> float:
    """Return the power of two e with which a pooler of e times the identity is the identity to fp32 rounding.

    `BertForSequenceClassification` computes W' tanh(P h + p) + b of the last layer's vector h of `[CLS]`; this project
    computes W h + b. With P = e I, p = 0 and W' = W / e the first is W tanh(e h) / e + b. For every x,
    x - x^3 / 3 <= tanh(x) <= x for x >= 0, and the mirror image below, so tanh(e h) / e is h to a relative error of
    (e h)^2 / 3. This is below half a unit in the last place of fp32, 2^-24, if |e h| <= sqrt(3) 2^-12.

    h leaves a LayerNorm, so |h| is bounded: H numbers of mean 0 and variance at most 1 have squares that sum to at most
    H, and the largest of them is at most sqrt(H - 1), so |h_i| <= |gamma_i| sqrt(H - 1) + |beta_i|.
    As e is a power of two, e h and W / e are exact.
    """
    norm: nn.LayerNorm = classifier.bert.encoder.get_submodule("layer")[-1].output.LayerNorm  # type: ignore[index]
    bound = (norm.weight.abs() * math.sqrt(len(norm.weight) - 1) + norm.bias.abs()).max().item()
    return 2.0 ** math.floor(math.log2(math.sqrt(3) * 2**-12 / bound))


def _write_huggingface(loaded: LoadedClassifier, folder: Path) -> Run:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    info, data = loaded.checkpoint.info, loaded.checkpoint.info.data
    scale, head = pooler_scale(loaded.classifier), loaded.classifier.head
    weights = {name: tensor.contiguous() for name, tensor in loaded.classifier.bert.state_dict(prefix="bert.").items()}
    hidden_size = info.config.hidden_size
    weights |= {
        "bert.pooler.dense.weight": scale * torch.eye(hidden_size),
        "bert.pooler.dense.bias": torch.zeros(hidden_size),
    }
    weights |= {"classifier.weight": head.weight.detach() / scale, "classifier.bias": head.bias.detach()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    labels = dict(enumerate(info.label_names))
    config = info.config.to_dict() | ARCHITECTURE | {"architectures": ["BertForSequenceClassification"]}
    config |= {"id2label": labels, "label2id": {name: number for number, name in labels.items()}, "dtype": "float32"}
    tokenizer = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS} | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": data.max_length,
        "truncation_side": "left" if data.truncation == "tail" else "right",
        "split_special_tokens": True,  # a review that says [SEP] is no end of a review
    }
    for name, content in {"config": config, "tokenizer_config": tokenizer}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.no_grad()
    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        logits: Tensor = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        return logits.numpy()

    return run


class _Logits(nn.Module):
    """The classifier as one expression, without what keeps its numbers from depending on the batch."""

    def __init__(self, classifier: ReviewClassifier) -> None:
        super().__init__()
        self.bert, self.head = classifier.bert, classifier.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded = self.bert.embeddings(input_ids)
        hidden, _ = run_layers(self.bert.encoder.layer, embedded, attention_mask.bool(), cls_only=True)
        logits: Tensor = self.head(hidden[:, 0])
        return logits


def _write_onnx(loaded: LoadedClassifier, folder: Path) -> Run:
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=loaded.checkpoint.info.data.max_length)}
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))  # one tensor would be one input
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the exporter itself calls
        torch.onnx.export(
            _Logits(loaded.classifier).eval(),
            example,
            folder / "model.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
            verbose=False,
        )
    return _open_onnx(folder / "model.onnx")


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def _quantize(folder: Path) -> Run:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(folder / "model.onnx", folder / "model_int8.onnx")
    return _open_onnx(folder / "model_int8.onnx")
