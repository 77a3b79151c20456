"""What a GPU does with this project: tests, the frozen layers' speed, the whole job, and what a user would run instead.

    benchmarks/gpu.sh                     # on a machine with an NVIDIA GPU
    benchmarks/gpu.sh --device cpu --num-reviews 96 --model minilm --steps prefix,job    # the same lines without one

Each step is a process of its own with a time limit. A step that fails is recorded with the end of its output, and the
others go on. The file is written after every step.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from setting import BERT_BASE, MINILM
from torch import nn

from bertlens.model.bert import BertModel
from bertlens.model.classifier import FrozenPrefix, ReviewClassifier
from bertlens.model.pretrained import find_pretrained
from bertlens.run.folder import environment, write_json

ROOT = Path(__file__).resolve().parents[1]
NUM_REVIEWS = 25000  # of each split
NUM_PIECES = 256
SIZES = (16384, 65536, 262144)  # word pieces per batch
REPEATS = 10
LIMITS = {"tests": 240, "prefix": 120, "epoch": 120, "job": 240, "two": 240, "compare": 600}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="bert-base-random", choices=("bert-base-random", "minilm"))
    parser.add_argument("--reviews", type=Path, help="folder with train and test reviews; otherwise made up")
    parser.add_argument("--num-reviews", type=int, default=NUM_REVIEWS, help="of each split")
    parser.add_argument("--steps", default=",".join(LIMITS), help="of " + ", ".join(LIMITS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=("prefix", "epoch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps({"prefix": measure_prefix, "epoch": measure_epoch}[arguments.one](arguments)))
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.sh: torch finds no GPU here; --device cpu tries the lines without one")
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    out = arguments.out or ROOT / "benchmarks" / "results" / f"gpu_{re.sub(r'[^A-Za-z0-9]+', '_', card)}.json"
    content: dict[str, Any] = {
        "what": "benchmarks/gpu.sh",
        "card": card,
        "cards": torch.cuda.device_count(),
        "model": arguments.model,
        "reviews": "made up" if arguments.reviews is None else "given",
        "num_reviews": arguments.num_reviews,
        **environment(),
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments.reviews = arguments.reviews or make_reviews(Path(folder, "reviews"), arguments.num_reviews)
        commands = build_commands(arguments, Path(folder))
        for step in arguments.steps.split(","):
            if step == "two" and torch.cuda.device_count() < 2 and arguments.device == "cuda":
                content[step] = {"left out": "one GPU"}
                continue
            content[step] = run(step, commands[step], Path(folder))
            print(step, content[step], flush=True)
            write_json(out, content)
    if failed := [step for step in commands if content.get(step, {}).get("failed")]:
        raise SystemExit(f"{out}: failed: {', '.join(failed)}")


def make_reviews(folder: Path, num_reviews: int) -> Path:
    """Write train and test reviews of IMDb's lengths; two words decide the label."""
    folder.mkdir()
    words = [line.strip() for line in find_pretrained(MINILM).vocabulary if line.isalpha() and len(line) > 3][:5000]
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        lengths = np.clip(random.lognormal(5.2, 0.65, num_reviews), 10, 1500).astype(int)
        labels = np.arange(num_reviews) % 2
        texts = [
            " ".join(["superb" if label else "dreadful", *random.choice(words, length)])
            for label, length in zip(labels, lengths, strict=True)
        ]
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{split}.parquet")
    return folder


def write_model(folder: Path) -> Path:
    """Write BERT-base with random weights as a published model. Its vocabulary is MiniLM's."""
    folder.mkdir()
    shutil.copy(find_pretrained(MINILM).weights_path.with_name("vocab.txt"), folder)
    (folder / "config.json").write_text(json.dumps(BERT_BASE.to_dict() | {"model_type": "bert", "hidden_act": "gelu"}))
    torch.manual_seed(0)
    save_file(BertModel(BERT_BASE).state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def build_commands(arguments: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Return the command of each step."""
    here, cuda = str(ROOT / "benchmarks"), arguments.device == "cuda"
    own = [f"--device={arguments.device}", f"--model={arguments.model}"]
    own += [f"--reviews={arguments.reviews}", f"--num-reviews={arguments.num_reviews}"]
    model = write_model(folder / "model") if arguments.model == "bert-base-random" else None
    job = [
        str(ROOT / "train.py"),
        f"model.pretrained={model}" if model else "model=minilm",
        f"data.path={arguments.reviews}",
        f"data.max_reviews={arguments.num_reviews}",
        f"trainer.accelerator={'gpu' if cuda else 'cpu'}",
        "logger=false",
        "callbacks=none",
    ]
    one = [f"cache_dir={folder / 'cache'}", f"hydra.run.dir={folder / 'job'}", "trainer.devices=1"]
    two = [f"cache_dir={folder / 'cache-two'}", f"hydra.run.dir={folder / 'two'}", "trainer.devices=2"]
    return {
        "tests": [
            "-m",
            "pytest",
            str(ROOT / "tests" / "test_gpu.py"),
            "-q",
            "-m",
            "gpu" if cuda else "not gpu and not slow",
        ],
        "prefix": [__file__, *own, "--one=prefix"],
        "epoch": [__file__, *own, "--one=epoch"],
        "job": [*job, *one],
        "two": [*job, *two, "trainer.strategy=ddp", "data.batch_size=16"],
        "compare": [f"{here}/compare.py", *own, "--methods", "tuned", "expert", "bertlens", "--repeats=1"],
    }


def run(step: str, command: list[str], folder: Path) -> dict[str, Any]:
    """Return what a step measures, and its seconds; `failed` and the end of its output if it fails."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=LIMITS[step], check=False
        )
        status, output, errors = str(done.returncode), done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        status, output, errors = f"after {LIMITS[step]} s", str(error.stdout or ""), str(error.stderr or "")
    found: dict[str, Any] = {"wall_seconds": round(time.perf_counter() - start, 1)}
    if status != "0":
        return found | {"failed": status, "output": (output + errors)[-3000:]}
    if step in ("job", "two"):
        written = json.loads((folder / step / "metrics.json").read_text())
        return found | {name: written[name] for name in ("seconds", "metrics", "reviews_per_second")}
    if step == "tests":
        return found | {"summary": output.splitlines()[-1]}
    return found | json.loads(output[output.index("{") :] if step == "compare" else output.splitlines()[-1])


def time_calls(call: Callable[[], Any], device: torch.device) -> float:
    """Return the median seconds of a call, which is repeated until the device has ended."""
    seconds = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure_prefix(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the frozen layers' TFLOP/s in bf16, eager and compiled, beside a matrix multiplication of their shape."""
    device = torch.device(arguments.device)
    config = BERT_BASE if arguments.model == "bert-base-random" else find_pretrained(MINILM).config
    torch.manual_seed(0)
    bert = BertModel(config).eval().to(device, torch.bfloat16)
    prefix = FrozenPrefix(bert, depth=config.num_hidden_layers - 1)
    width, inner = config.hidden_size, config.intermediate_size
    found: dict[str, Any] = {}
    for num_tokens in SIZES if device.type == "cuda" else (4096,):
        ids = torch.randint(1000, 30000, (num_tokens // NUM_PIECES, NUM_PIECES), device=device)
        mask = torch.arange(NUM_PIECES, device=device) < torch.full((len(ids), 1), NUM_PIECES - 8, device=device)
        per_piece = 2 * (4 * width**2 + 2 * width * inner) + 4 * width * NUM_PIECES
        operations = ids.numel() * per_piece * prefix.depth
        left = torch.randn(ids.numel(), width, device=device, dtype=torch.bfloat16)
        right = torch.randn(width, inner, device=device, dtype=torch.bfloat16)
        with torch.inference_mode():
            rates = {
                "matrix product": 2 * ids.numel() * width * inner / time_calls(lambda a=left, b=right: a @ b, device),
                "all real": operations / time_calls(lambda i=ids: prefix(i, None), device),
                "some padded": operations / time_calls(lambda i=ids, m=mask: prefix(i, m), device),
            }
            if device.type == "cuda":
                compiled = torch.compile(prefix)
                rates["all real, compiled"] = operations / time_calls(lambda i=ids, c=compiled: c(i, None), device)
        found[f"{num_tokens} word pieces"] = {name: round(rate / 1e12, 3) for name, rate in rates.items()}
    return {"tflops": found}


def measure_epoch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a warm step, stored states to optimizer step: as it is, compiled, and with CUDA graphs."""
    device = torch.device(arguments.device)
    config = BERT_BASE if arguments.model == "bert-base-random" else find_pretrained(MINILM).config
    states = torch.randn(32, NUM_PIECES, config.hidden_size, device=device, dtype=torch.bfloat16)
    labels = torch.arange(32, device=device) % 2
    modes = {"eager": None, "compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}
    found = {}
    for name, mode in modes.items():
        if mode is not None and device.type == "cpu":
            continue
        torch.manual_seed(0)
        suffix: nn.Module = ReviewClassifier(config, num_classes=2, trainable_layers=1).suffix.to(device)
        optimizer = torch.optim.Adam(suffix.parameters(), lr=1e-5, fused=True)
        forward = suffix if mode is None else torch.compile(suffix, mode=mode)

        def step(forward: Any = forward, optimizer: Any = optimizer) -> None:
            nn.functional.cross_entropy(forward(states, None).float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        found[name] = round(1000 * time_calls(step, device), 3)
    return {"milliseconds_per_step": found, "reviews_per_step": len(labels)}


if __name__ == "__main__":
    main()
