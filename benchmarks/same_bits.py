"""Whether another checkout of this project trains the same weights, and whether its checkpoints measure the same.

    python benchmarks/same_bits.py --against ../other --reviews ../imdb --out benchmarks/results/same_bits.json

Each job is trained by both checkouts in processes of their own. Final weights are compared bit by bit; this checkout
then evaluates the other one's checkpoint, and the metrics are compared digit by digit.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bertlens.run.folder import environment, write_json

REPOSITORY = Path(__file__).parents[1]


def jobs(reviews: str, num_reviews: int) -> dict[str, list[str]]:
    """The overrides of each job by its name."""
    real = ["model=minilm", f"data.path={reviews}", f"data.max_reviews={num_reviews}", "features.dtype=float32"]
    demo = ["experiment=demo", "report=false"]
    found = {
        "demo": [*demo, "features.dtype=float32"],
        "demo, 300 reviews, bfloat16": [*demo, "features.dtype=bfloat16", "data.num_demo_reviews=300"],
    }
    for layers in (1, 2):
        for cache in ("on", "off"):
            name = f"MiniLM on {num_reviews} reviews, {layers} trained layers, features.cache={cache}"
            found[name] = [*real, f"model.trainable_layers={layers}", f"features.cache={cache}"]
    return found


def run(checkout: Path, script: str, folder: Path, *overrides: str) -> dict[str, float]:
    """The metrics of an entry point of a checkout, run in `folder`."""
    plain = ["trainer.accelerator=cpu", f"hydra.run.dir={folder}", f"cache_dir={folder.parent}/cache"]
    command = [sys.executable, str(checkout / f"{script}.py"), *overrides, *plain]
    environ = os.environ | {"PYTHONPATH": str(checkout / "src")}
    subprocess.run(command, check=True, env=environ, cwd=folder.parent, stdout=subprocess.DEVNULL)
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return metrics


def weights(folder: Path) -> dict[str, torch.Tensor]:
    raw = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    found: dict[str, torch.Tensor] = raw["state_dict"]
    return found


def compare(name: str, overrides: list[str], other: Path, scratch: Path) -> dict[str, Any]:
    scratch.mkdir(parents=True)
    options = [*overrides, "trainer.devices=1", "trainer.enable_progress_bar=false"]
    theirs = run(other, "train", scratch / "theirs", *options)
    ours = run(REPOSITORY, "train", scratch / "ours", *options)
    before, after = weights(scratch / "theirs"), weights(scratch / "ours")
    best = f"checkpoint={scratch / 'theirs' / 'checkpoints' / 'best.ckpt'}"
    again = run(REPOSITORY, "evaluate", scratch / "again", best)
    expected = run(other, "evaluate", scratch / "expected", best)
    return {
        "parameters": len(before),
        "different_parameters": sum(not torch.equal(before[key], after[key]) for key in before | after),
        "metrics": len(theirs),
        "different_metrics": sum(theirs[key] != ours.get(key) for key in theirs),
        "metrics_of_their_checkpoint": len(expected),
        "different_metrics_of_their_checkpoint": sum(expected[key] != again.get(key) for key in expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, type=Path, help="the other checkout")
    parser.add_argument("--reviews", required=True, help="folder with train and test reviews")
    parser.add_argument("--num-reviews", type=int, default=400)
    parser.add_argument("--scratch", required=True, type=Path, help="an empty folder")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    reviews = str(Path(arguments.reviews).resolve())
    found = {}
    for index, (name, overrides) in enumerate(jobs(reviews, arguments.num_reviews).items()):
        found[name] = compare(name, overrides, arguments.against.resolve(), arguments.scratch.resolve() / str(index))
        print(name, found[name], flush=True)
    content = {"what": "benchmarks/same_bits.py", "jobs": found, **environment()}
    if arguments.out:
        write_json(arguments.out, content)


if __name__ == "__main__":
    main()
