"""What validation reviews say of settings that a preset could have: each choice is a step, skipped when --out holds it.

    python benchmarks/choose.py --reviews path/to/imdb --work path/to/files \
        "data.max_length=512 model.trainable_layers=5 trainer.max_epochs=2 optimizer.lr=2e-4"

Each is given to train.py on top of experiment=balanced, with a fifth of the training reviews for validation: the test
reviews are not read. `--jobs 2` trains two at a time, each with its share of the cores; no times are kept. A choice
that was stopped goes on in its folder.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bertlens.run.folder import environment, write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("experiment=balanced", "model=minilm", "data.validation_fraction=0.2", "test=false", "report=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choices", nargs="+", metavar="OVERRIDES")
    parser.add_argument("--reviews", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs and features lie")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "choices.json")
    arguments = parser.parse_args()
    done = json.loads(arguments.out.read_text(encoding="utf-8"))["choices"] if arguments.out.is_file() else []
    known = {found["given"] for found in done}
    wanted = [given for given in arguments.choices if given not in known]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in as_completed([pool.submit(measure, given, arguments) for given in wanted]):
            done.append(future.result())
            write_json(arguments.out, {"what": "benchmarks/choose.py", "shared": SHARED, "choices": done})
    for found in sorted(done, key=lambda each: each["validation loss"]):
        print(f"{found['accuracy']:.2%}, loss {found['validation loss']:.4f}: {found['given']}")


def measure(given: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once; return what the validation reviews say of each epoch and of the last one, which is kept."""
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    folder = arguments.work.resolve() / given.replace("/", "_")
    paths = [f"data.path={arguments.reviews.resolve()}", f"cache_dir={folder.parent}/cache"]
    paths += [f"hydra.run.dir='{folder}'", "checkpoint.every_n_steps=100"]  # goes on by itself from where it stopped
    command = [sys.executable, str(ROOT / "train.py"), *SHARED, *given.split(), *paths]
    if not (folder / "metrics.json").is_file():
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    return read(given, folder)


def read(given: str, folder: Path) -> dict[str, Any]:
    """Return what is kept of a run."""
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {
        "given": given,
        "accuracy": run["metrics"]["val/accuracy"],
        "validation loss": run["history"][-1]["val/loss"],
        "history": run["history"],
        **{name: run[name] for name in environment()},
    }


if __name__ == "__main__":
    main()
