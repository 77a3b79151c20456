"""What the store, and numbers that do not depend on their batch, hold at scale, a row at a time.

    python benchmarks/scale.py --reviews path/to/imdb --scratch EMPTY_FOLDER --out benchmarks/results/scale.json

Rows that are in the file are not measured again, unless `--steps` names them. Reviews are real, the model is MiniLM.
The rows appended and splits take 13 minutes together, the first time; sweep 13 more; joblib 8; each of the others few.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from setting import Setting, prefix_operations

from bertlens.data.batching import TokenRows, packed_batches
from bertlens.data.tokenizer import WordPieces
from bertlens.features import shards, store
from bertlens.features.rows import FeatureRows
from bertlens.features.settings import FeatureSettings
from bertlens.features.store import FeatureStore
from bertlens.model.classifier import FrozenPrefix, ReviewClassifier
from bertlens.model.pretrained import load_strictly
from bertlens.model.steady import in_order, num_workers
from bertlens.run.folder import environment, write_json
from bertlens.system.memory import keep_freed_memory

REPOSITORY = Path(__file__).parents[1]
RATES = "1e-5,2e-5,5e-5,1e-4,2e-4,5e-4,1e-3,2e-3"
NUM_SHARDS, REVIEWS_PER_SHARD, STATES_PER_REVIEW = 24_000, 417, 198  # 10 million reviews, 1.5 TB
ROWS = (1, 7, 32, 400)


class Job:
    """The reviews, the weights, and a store that the rows share."""

    def __init__(self, reviews: str, scratch: Path, *, num_reviews: int) -> None:
        self.path = reviews
        self.scratch = scratch
        self.num_reviews = num_reviews
        self.setting = Setting(reviews, num_reviews, model="minilm", device=torch.device("cpu"))
        self.tokens = {split: self.setting.rows(split) for split in ("train", "validation", "test")}
        self.pieces = [ids for rows in self.tokens.values() for ids in split_reviews(rows.pieces)]

    def classifier(self, trainable_layers: int = 1) -> ReviewClassifier:
        torch.manual_seed(1234)
        options: dict[str, Any] = {"trainable_layers": trainable_layers, "frozen_dtype": torch.bfloat16}
        classifier = ReviewClassifier(self.setting.config, num_classes=2, **options)
        load_strictly(classifier.bert, self.setting.weights(), source="MiniLM")
        return classifier.eval()

    def prefix(self) -> FrozenPrefix:
        prefix = self.classifier().prefix
        assert prefix is not None
        return prefix

    def store(self, name: str) -> FeatureStore:
        settings = FeatureSettings()
        return FeatureStore(self.scratch / name, self.prefix(), settings=settings, tokens_per_batch=8192)


def split_reviews(pieces: WordPieces) -> list[np.ndarray]:
    return np.split(pieces.ids, pieces.starts[1:-1])


def as_rows(reviews: Sequence[np.ndarray]) -> TokenRows:
    starts = np.cumsum([0, *map(len, reviews)], dtype=np.int64)
    return TokenRows(WordPieces(np.concatenate(reviews), starts, pad_id=0), [0] * len(reviews))


def build(made: FeatureStore, reviews: Sequence[np.ndarray]) -> int:
    """Return how many reviews were computed."""
    rows = made.find(as_rows(reviews))
    return made.build(rows, name="the benchmark") if rows.num_missing else 0


def appended(job: Job) -> dict[str, Any]:
    """Store 4/5 of the training reviews and append some."""
    made, most = job.store("cache/features"), len(job.pieces) * 2 // 5
    shutil.rmtree(made.folder, ignore_errors=True)
    few = min(100, most // 10)
    before = build(made, job.pieces[:most])
    start = time.perf_counter()
    return {
        "stored": most,
        "computed_at_first": before,
        "appended": few,
        "computed": build(made, job.pieces[: most + few]),
        "seconds": round(time.perf_counter() - start, 2),
    }


def splits(job: Job) -> dict[str, Any]:
    """Store all reviews, then ask for other splits, folds, orders and a subset of them."""
    made, source = job.store("cache/features"), np.random.default_rng(0)
    build(made, job.pieces)
    order = source.permutation(len(job.pieces))
    share = len(order) // 5
    asked = {
        "another 80/20 split": [order[share:], order[:share]],
        "5 folds": [np.delete(order, slice(fold * share, (fold + 1) * share)) for fold in range(5)],
        "another order": [order[::-1]],
        "4,000 of them": [order[:4000]],
    }
    return {
        name: sum(build(made, [job.pieces[row] for row in rows]) for rows in parts) for name, parts in asked.items()
    }


def fork(function: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def take_part(made: FeatureStore, reviews: list[np.ndarray], said: Path) -> None:
    said.write_text(str(build(made, reviews)))


def builders(job: Job) -> dict[str, Any]:
    """Let 8 processes build one store at once."""
    torch.set_num_threads(1)  # threads do not survive a fork
    folder, reviews = job.scratch / "builders", job.pieces[: job.num_reviews // 10]
    shutil.rmtree(folder, ignore_errors=True)
    made = job.store("builders/features")
    said = [folder / f"{number}.txt" for number in range(8)]
    folder.mkdir(parents=True, exist_ok=True)
    for process in [fork(take_part, made, reviews, path) for path in said]:
        process.join()
    num_reviews, num_computed = len(made.find(as_rows(reviews)).reviews), sum(int(path.read_text()) for path in said)
    return {"reviews": num_reviews, "computed": num_computed, "computed_twice": num_computed / num_reviews - 1}


def kills(job: Job) -> dict[str, Any]:
    """Kill one of 4 builders, again and again; then build what is missing and compare all bits."""
    torch.set_num_threads(1)
    store.SHARD_BYTES = 2 * 2**20
    source, reviews = random.Random(0), sorted(job.pieces[:2000], key=len)[:400]
    alone, made = job.store("alone"), job.store("kills")
    build(alone, reviews)
    expected = alone.find(as_rows(reviews))
    num_kills = num_stores = wrong = damaged = left = 0
    while num_kills < 200:
        shutil.rmtree(made.folder, ignore_errors=True)
        made.folder.mkdir(parents=True)
        num_stores += 1
        working = [fork(build, made, reviews) for _ in range(4)]
        while num_kills < 200 and made.find(as_rows(reviews)).num_missing:
            time.sleep(source.uniform(0.01, 0.3))
            chosen = working.pop(source.randrange(4))
            was_alive = chosen.is_alive()
            chosen.kill()
            chosen.join()
            num_kills += was_alive
            working.append(fork(build, made, reviews))
        for process in working:
            process.kill()
            process.join()
        made.build(made.find(as_rows(reviews)), name="the benchmark")
        found = made.find(as_rows(reviews))
        damaged += len(found.missing)
        wrong += sum(not torch.equal(found[[row]].inputs, expected[[row]].inputs) for row in range(len(reviews)))
        left += len(list(found.folder.rglob("*.unfinished")))
    return {"kills": num_kills, "stores": num_stores, "damaged": damaged, "wrong": wrong, "leftovers": left}


@torch.no_grad()
def company(job: Job) -> dict[str, Any]:
    """Predict 1,000 reviews at several numbers of rows per batch, each time in another order."""
    reviews, found = [job.pieces[row] for row in range(min(1000, len(job.pieces)))], {}
    tokens = as_rows(reviews)
    for layers in (1, 2):
        classifier = job.classifier(layers)
        expected, different = None, 0
        for rows in ROWS:
            order = np.random.default_rng(rows).permutation(len(reviews))
            probabilities = torch.empty(len(reviews), 2)
            for start in range(0, len(order), rows):
                chosen = order[start : start + rows]
                batch = tokens[chosen.tolist()]
                probabilities[chosen] = classifier(batch.inputs, batch.attention_mask).float().softmax(dim=1)
            expected = probabilities if expected is None else expected
            different += int((probabilities != expected).any(dim=1).sum())
        found[f"{layers} trained"] = different
    return {"reviews": len(reviews), "rows_per_batch": ROWS, "different_probabilities": found}


class FirstStep(pl.Callback):
    """Print how long it took from `SINCE` to the first training step, and end the run."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        print(f"first step after {time.time() - float(os.environ['SINCE']):.3f} s", flush=True)
        os._exit(0)


def warm_start(job: Job) -> dict[str, Any]:
    """Start a run whose features are stored, and wait for its first step; imports come before."""
    program = (
        "import os, runpy, sys, time, bertlens.build, bertlens.cli.launch, bertlens.run.summary, scale; "
        "os.environ['SINCE'] = str(time.time()); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = train(job, "warm", "+callbacks.first._target_=scale.FirstStep")
    run([*train(job, "build"), "features.build_only=true"])
    seconds = []
    for _ in range(3):
        said = run([*arguments[:1], "-c", program, *arguments[1:]], PYTHONPATH=str(REPOSITORY / "benchmarks"))
        seconds.append(float(re.findall(r"first step after (\S+) s", said)[0]))
    return {"seconds": seconds}


def train(job: Job, name: str, *more: str) -> list[str]:
    folder = job.scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    return [
        sys.executable,
        str(REPOSITORY / "train.py"),
        "model=minilm",
        f"data.path={job.path}",
        f"data.max_reviews={job.num_reviews}",
        f"cache_dir={job.scratch / 'cache'}",
        f"hydra.run.dir={folder}",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        *more,
    ]


def run(command: Sequence[str], **environ: str) -> str:
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


def index(job: Job) -> dict[str, Any]:
    """Open a store of 10 million reviews whose digests are made up; the states are holes in sparse files."""
    made, tokens = job.store("index"), job.tokens["train"]
    shutil.rmtree(made.folder, ignore_errors=True)
    empty = made.find(tokens)
    empty.folder.mkdir(parents=True)
    for number in range(NUM_SHARDS):
        digests = np.random.default_rng(number).bytes(16 * REVIEWS_PER_SHARD)
        reviews = np.frombuffer(digests, dtype="V16")
        if number < 20:  # some of those that are asked for
            known = empty.reviews[number * REVIEWS_PER_SHARD : (number + 1) * REVIEWS_PER_SHARD]
            reviews = np.concatenate([known, reviews])[:REVIEWS_PER_SHARD]
        write_hole(empty.folder / f"{number:032x}{shards.SUFFIX}", empty, reviews)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = made.find(tokens)
    seconds = time.perf_counter() - start
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    shutil.rmtree(made.folder)
    return {
        "digests": NUM_SHARDS * REVIEWS_PER_SHARD,
        "shards": NUM_SHARDS,
        "asked": len(found.reviews),
        "found": len(found.reviews) - len(found.missing),
        "seconds": round(seconds, 2),
        "more_memory_mb": round(more / 1024),
    }


def write_hole(path: Path, rows: FeatureRows, reviews: np.ndarray) -> None:
    """Write a shard whose states take no room on the disk."""
    number = len(reviews)
    starts = np.arange(number + 1, dtype=np.int64) * STATES_PER_REVIEW
    found = shards.ShardIndex(reviews.view(np.uint8).reshape(-1, 16), starts, np.zeros(number, dtype=np.int64))
    sizes = {"checksums": 8 * number, "starts": 8 * (number + 1)}
    shapes = {"checksums": [number], "starts": [number + 1], "reviews": [number, 16]}
    shapes["states"] = [int(starts[-1]), rows.space["hidden_size"]]
    sizes |= {"states": 2 * shapes["states"][0] * shapes["states"][1], "reviews": 16 * number}
    kinds = {"checksums": "I64", "starts": "I64", "states": "BF16", "reviews": "U8"}
    header: dict[str, Any] = {"__metadata__": shards.describe(rows.folder.name, found)}
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": kinds[name], "shape": shapes[name], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + found.checksums.tobytes() + starts.tobytes())
        file.seek(sizes["states"], os.SEEK_CUR)
        file.write(found.reviews.tobytes())


@torch.no_grad()
def prefix(job: Job) -> dict[str, Any]:
    """Measure the frozen layers on some real reviews, and matrix products of their shapes, in the same minute."""
    tokens = as_rows(job.pieces[:: max(1, len(job.pieces) // 500)])
    made = job.prefix()
    batches = [rows.tolist() for rows in packed_batches(tokens.pieces.lengths, num_tokens=8192)]
    workers = num_workers(made.device)

    def layers() -> float:
        items = [tokens[rows] for rows in batches]
        start = time.perf_counter()
        for _ in in_order(lambda batch: made(batch.inputs, batch.attention_mask), items, num_workers=workers):
            pass
        return prefix_operations(job.setting, tokens) / (time.perf_counter() - start) / 1e12

    config = job.setting.config
    hidden = torch.randn(8192, config.hidden_size, dtype=torch.bfloat16)
    wide = torch.randn(8192, config.intermediate_size, dtype=torch.bfloat16)
    square, out, back = (
        torch.randn(rows, columns, dtype=torch.bfloat16)
        for rows, columns in (
            (config.hidden_size, config.hidden_size),
            (config.hidden_size, config.intermediate_size),
            (config.intermediate_size, config.hidden_size),
        )
    )

    def products() -> float:
        def multiply(_: int) -> None:
            for _ in range(4):
                hidden @ square
            hidden @ out
            wide @ back

        start = time.perf_counter()
        for _ in in_order(multiply, range(20 * workers), num_workers=workers):
            pass
        per_piece = 2 * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
        return 20 * workers * 8192 * per_piece / (time.perf_counter() - start) / 1e12

    layers(), products()
    pairs = [(layers(), products()) for _ in range(3)]
    best = [max(values) for values in zip(*pairs, strict=True)]
    return {"layers_tflops": best[0], "products_tflops": best[1], "share": best[0] / best[1], "reviews": len(tokens)}


def sweep(job: Job) -> dict[str, Any]:
    """Try 8 learning rates for 2 epochs each, from nothing, with all reviews."""
    shutil.rmtree(job.scratch / "sweep-cache", ignore_errors=True)
    arguments = [*train(job, "swept", f"optimizer.lr={RATES}"), f"hydra.sweep.dir={job.scratch / 'sweep'}"]
    shutil.rmtree(job.scratch / "sweep", ignore_errors=True)
    start = time.perf_counter()
    run([*arguments[:2], "-m", *arguments[2:], f"cache_dir={job.scratch / 'sweep-cache'}"])
    seconds = round(time.perf_counter() - start, 1)
    shutil.rmtree(job.scratch / "sweep-cache")  # its pages would take the place of others
    found = [json.loads(path.read_text())["seconds"] for path in (job.scratch / "sweep").glob("*/metrics.json")]
    return {
        "jobs": len(found),
        "seconds": seconds,
        "stages": {name: sum(row[name] for row in found) for name in found[0]},
    }


def joblib(job: Job) -> dict[str, Any]:
    """Try 8 learning rates on stored features, one after another and in as many processes as there are cores."""
    run([*train(job, "build"), "features.build_only=true"])
    arguments, seconds = train(job, "joblib", f"optimizer.lr={RATES}"), {}
    side_by_side = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={os.cpu_count()}"]
    for name, more in {"sequential": [], "joblib": side_by_side}.items():
        folder = job.scratch / "joblib" / name
        start = time.perf_counter()
        run([*arguments[:2], "-m", *arguments[2:], f"hydra.sweep.dir={folder}", *more])
        seconds[name] = round(time.perf_counter() - start, 1)
    return {"jobs": 8, "seconds": seconds, "ratio": seconds["joblib"] / seconds["sequential"]}


STEPS: dict[str, Callable[[Job], dict[str, Any]]] = {
    step.__name__: step
    for step in (company, prefix, builders, kills, index, appended, splits, warm_start, sweep, joblib)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", required=True, help="folder with train and test reviews")
    parser.add_argument("--num-reviews", type=int, default=25_000, help="of each split")
    parser.add_argument("--scratch", required=True, type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    kept = arguments.out is not None and arguments.out.is_file()
    rows: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"] if kept else {}
    keep_freed_memory()
    job = Job(arguments.reviews, arguments.scratch.resolve(), num_reviews=arguments.num_reviews)
    for name in arguments.steps or [name for name in STEPS if name not in rows]:
        start, threads = time.perf_counter(), torch.get_num_threads()
        rows[name] = STEPS[name](job)
        torch.set_num_threads(threads)
        rows[name] |= {"took": round(time.perf_counter() - start, 1), "commit": environment()["commit"]}
        print(name, rows[name], flush=True)
        if arguments.out is not None:
            write_json(arguments.out, {"what": "benchmarks/scale.py", "rows": rows, **environment()})


if __name__ == "__main__":
    main()
