"""This project beside what a user would run instead: same reviews, same frozen set, same epochs, one machine, one run.

    python benchmarks/compare.py --reviews ../imdb --out benchmarks/results/compare_cpu.json

With --accuracy, only the test accuracy, each method once, on more reviews. Begun again, it measures what is missing:

    python benchmarks/compare.py --reviews ../imdb --accuracy --out benchmarks/results/compare_accuracy.json

With --evaluation, only the evaluation with nothing stored, of an untrained model, repeat by repeat:

    python benchmarks/compare.py --reviews ../imdb --evaluation --out benchmarks/results/compare_evaluation.json

With --against, this checkout beside another one of this project, in turns:

    python benchmarks/compare.py --reviews ../imdb --against ../other --out benchmarks/results/rebuild.json

Methods take turns, repeat by repeat, each in a process of its own so that none inherits another's memory. Epochs of a
peer all cost the same (they recompute everything), so its longer jobs are its measured epochs times their number; ours
are run in full. Start-up (imports, weights, tokenization) is left out on both sides and reported apart.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

EPOCHS = 2
LONG_EPOCHS = 10
SWEEP = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
LR = 5e-5
NUM_REVIEWS = {"seconds": 640, "accuracy": 4000}
PEERS = ("notebook", "stock", "tuned", "expert")  # benchmarks/peers.py has them
OURS = "bertlens"

# of two checkouts: an epoch from a warm store is too short for a ratio, this many are not
WARM_EPOCHS = 20
LAUNCHER = f"import compare; compare.LONG_EPOCHS = {WARM_EPOCHS}; compare.main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", required=True, help="folder with train and test reviews")
    parser.add_argument("--num-reviews", type=int, help=f"of each split; {NUM_REVIEWS}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="minilm", choices=("minilm", "bert-base-random"))
    parser.add_argument("--methods", nargs="*", default=[*PEERS, OURS])
    parser.add_argument("--accuracy", action="store_true", help="measure the accuracy only, each method once")
    parser.add_argument("--evaluation", action="store_true", help="measure the evaluation only, of an untrained model")
    parser.add_argument("--against", type=Path, help="another checkout: measure only bertlens, there and here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.num_reviews = arguments.num_reviews or NUM_REVIEWS["accuracy" if arguments.accuracy else "seconds"]
    if arguments.accuracy and not arguments.out:
        parser.error("--accuracy: give --out=FILE, where each method's accuracy is kept")
    if arguments.against and not (arguments.against / "benchmarks" / "compare.py").is_file():
        parser.error(f"--against={arguments.against}: no checkout of this project")
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    if arguments.accuracy:
        print(json.dumps(compare_accuracy(arguments), indent=1))
        return
    content = compare_checkouts(arguments) if arguments.against else compare_methods(arguments)
    if arguments.out:
        from bertlens.run.folder import write_json

        write_json(arguments.out, content)
    print(json.dumps({"seconds": content["seconds"], "ratios": content["ratios"]}, indent=1))


def compare_methods(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each method, and how many times as long as ours the peers take."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.methods}
    for repeat in range(arguments.repeats):
        for name in arguments.methods:
            start = time.perf_counter()
            found = run_one(name, [sys.executable, __file__, *sys.argv[1:], "--one", name], dict(os.environ))
            runs[name].append(found)
            print(f"repeat {repeat + 1}, {name}: {time.perf_counter() - start:.0f} s {found}", file=sys.stderr)
    seconds = {name: jobs(name, found) for name, found in runs.items()}
    return describe(arguments) | {
        "learning_rate": LR,
        "seconds": seconds,
        "accuracy": {name: statistics.median(run["accuracy"] for run in found) for name, found in runs.items()},
        "runs": runs,
        "ratios": ratios(seconds),
    }


def compare_accuracy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the test accuracy of each method. Those that `--out` has, of as many reviews, are not measured again."""
    from bertlens.run.folder import write_json

    def known() -> dict[str, float]:
        found: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        return found["accuracy"] if found.get("num_train") == arguments.num_reviews else {}

    for name in arguments.methods:
        if name not in known():
            run = run_one(name, [sys.executable, __file__, *sys.argv[1:], "--one", name], dict(os.environ))
            print(f"{name}: {run['accuracy']:.4f}", file=sys.stderr)
            content = describe(arguments) | {"repeats": 1, "learning_rate": LR, "epochs": EPOCHS}
            # another process may have measured other methods since
            write_json(arguments.out, content | {"accuracy": known() | {name: run["accuracy"]}})
    return known()


def compare_checkouts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of this checkout and of another one, and their ratios repeat by repeat: below 1, ours is less.

    Each runs its own benchmarks/compare.py, and they take turns in being the first of a repeat.
    """
    checkouts = {"this": Path(__file__).resolve().parents[1], "other": arguments.against.resolve()}
    options = [f"--{name}={getattr(arguments, name)}" for name in ("reviews", "device", "model")]
    options += [f"--num-reviews={arguments.num_reviews}", "--one", OURS]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for repeat in range(arguments.repeats):
        for name, path in list(checkouts.items())[:: 1 if repeat % 2 == 0 else -1]:
            environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(path / "src"), str(path / "benchmarks")])}
            runs[name].append(checkout_rows(run_one(name, [sys.executable, "-c", LAUNCHER, *options], environ)))
            print(f"repeat {repeat + 1}, {name}: {runs[name][-1]}", file=sys.stderr)
    rows = {name: [{**run["seconds"], **run["bytes"]} for run in found] for name, found in runs.items()}
    quotients: dict[str, list[float]] = {
        row: [here[row] / there[row] for here, there in zip(rows["this"], rows["other"], strict=True)]
        for row in rows["this"][0]
        if row in rows["other"][0]
    }
    return describe(arguments) | {
        "versions_compared": {
            name: tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
            for name, path in checkouts.items()
        },
        "seconds": {
            name: {row: spread([run["seconds"][row] for run in found]) for row in found[0]["seconds"]}
            for name, found in runs.items()
        },
        "ratios": {row: spread([round(value, 4) for value in values]) for row, values in quotients.items()},
        "accuracy": {name: [run["accuracy"] for run in found] for name, found in runs.items()},
        "runs": runs,
    }


def checkout_rows(run: dict[str, Any]) -> dict[str, Any]:
    """Return what is compared of a run of `LAUNCHER`, whose long run has `WARM_EPOCHS` epochs."""
    seconds = {
        name.replace(f"run of {LONG_EPOCHS} ", f"run of {WARM_EPOCHS} "): s for name, s in run["seconds"].items()
    }
    warm = run["epoch_seconds"][-WARM_EPOCHS:]
    return {
        "seconds": seconds | {"one epoch, warm": statistics.median(warm), f"{WARM_EPOCHS} epochs, warm": sum(warm)},
        "bytes": {"store, bytes": run["store_bytes"], "memory above the model": run["memory_above_model_bytes"]},
        "accuracy": run["accuracy"],
    }


def run_one(name: str, command: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """Return what a process that measures one method prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured, how often, and on what machine."""
    from bertlens.run.folder import environment

    return {
        "what": "benchmarks/compare.py",
        "model": arguments.model,
        "num_train": arguments.num_reviews,
        "num_test": arguments.num_reviews,
        "repeats": arguments.repeats,
        "seed": 1234,
        **environment(),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def jobs(name: str, runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds of each job, median and spread over the repeats."""
    if name == OURS:
        return {job: spread([run["seconds"][job] for run in runs]) for job in runs[0]["seconds"]}
    epochs = [seconds for run in runs for seconds in run["epoch_seconds"]]
    found = {
        "evaluation": spread([run["evaluation_seconds"] for run in runs]),
        "start-up": spread([run["startup_seconds"] for run in runs]),
    }
    if epochs:
        found |= {
            "one epoch": spread(epochs),
            "run of 2 epochs": spread([sum(run["epoch_seconds"]) for run in runs]),
            "run of 10 epochs": spread([LONG_EPOCHS * seconds for seconds in epochs]),
            "sweep of 8 learning rates": spread([len(SWEEP) * sum(run["epoch_seconds"]) for run in runs]),
        }
    if "evaluation_seconds_sorted_by_length" in runs[0]:
        found["evaluation, sorted by length"] = spread([run["evaluation_seconds_sorted_by_length"] for run in runs])
    return found


def ratios(seconds: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times as long the peers take, by medians."""
    if OURS not in seconds:
        return {}
    ours = {job: value["median"] for job, value in seconds[OURS].items()}
    pairs = {
        "one epoch from a warm store": ("one epoch", "one epoch, warm"),
        "run of 2 epochs, store built in it": ("run of 2 epochs", "run of 2 epochs, cold"),
        "run of 2 epochs, warm": ("run of 2 epochs", "run of 2 epochs, warm"),
        "run of 10 epochs, store built in it": ("run of 10 epochs", "run of 10 epochs, cold"),
        "8 learning rates x 2 epochs, store built in it": ("sweep of 8 learning rates", "sweep, cold"),
        "evaluation, nothing stored": ("evaluation", "evaluation, cold"),
        "evaluation, nothing stored, peer sorted by length": ("evaluation, sorted by length", "evaluation, cold"),
    }
    found: dict[str, dict[str, float]] = {}
    for name in seconds:
        if name != OURS:
            found[name] = {
                what: round(seconds[name][theirs]["median"] / ours[own], 2)
                for what, (theirs, own) in pairs.items()
                if theirs in seconds[name] and own in ours
            }
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One method, once, in this process."""
    import setting
    import torch

    job = setting.Setting(
        arguments.reviews, arguments.num_reviews, model=arguments.model, device=torch.device(arguments.device)
    )
    if arguments.one == OURS:
        return setting.ours(
            job,
            lr=LR,
            epochs=EPOCHS,
            long_epochs=LONG_EPOCHS,
            sweep=SWEEP,
            started=STARTED,
            only_accuracy=arguments.accuracy,
            only_evaluation=arguments.evaluation,
        )
    import peers

    train, test = job.rows("train"), job.rows("test")
    startup = time.perf_counter() - STARTED
    options: dict[str, Any] = {"lr": LR, "epochs": 0 if arguments.evaluation else EPOCHS, "device": job.device}
    if arguments.one == "notebook":
        train, test = (as_in_the_notebook(rows) for rows in (train, test))
        classifier = job.classifier(frozen_dropout=True, frozen_dtype=torch.float32)
        found = peers.notebook_loop(classifier, train, test, **options)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = job.published_folder(Path(scratch))
            tuned, expert = arguments.one != "stock", arguments.one == "expert"
            found = peers.trainer(folder, train, test, **options, tuned=tuned, expert=expert)
    plain = dataclasses.asdict(found)
    return plain | plain.pop("more") | {"startup_seconds": startup}


def as_in_the_notebook(rows: Any) -> Any:
    """The same rows as the notebook has them: padded to 256, padding not masked."""
    return type(rows)(rows.pieces, rows.labels.tolist(), pad_to=256, mask_padding=False)


if __name__ == "__main__":
    main()
