"""What the presets cost and reach, with MiniLM on all of IMDb: each preset and seed is a step, skipped when done.

    python benchmarks/presets.py --reviews path/to/imdb --work path/to/files

The first seed of a preset begins with an empty cache; the others share its features. Every run measures the 25,000
test reviews once, at its end; settings were chosen by validation reviews only. `--only fast` is one preset.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bertlens.run.folder import write_json

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "presets.json"
PRESETS = ("fast", "balanced", "best")
SEEDS = (1, 2, 3)
KEPT = ("versions", "commit", "machine")


def measure(preset: str, seed: int, *, reviews: Path, work: Path) -> dict[str, object]:
    """Train and test once, in a process of its own; return what is kept of it, with the minutes as a user waits."""
    cache, folder = work / "cache" / preset, work / f"{preset}_{seed}"
    is_first = seed == SEEDS[0]
    if is_first:
        shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, str(REPOSITORY / "train.py"), f"experiment={preset}", "model=minilm", f"seed={seed}"]
    command += [f"data.path={reviews}", f"cache_dir={cache}", f"hydra.run.dir={folder}", "overwrite=true"]
    start = time.monotonic()
    subprocess.run(command, check=True)
    minutes = (time.monotonic() - start) / 60
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {
        "preset": preset,
        "seed": seed,
        "features": "from an empty cache" if is_first else "of the first seed",
        "minutes": round(minutes, 2),
        **{name: written.get(name) for name in ("metrics", "intervals", "seconds", *KEPT)},
    }


def summarize(runs: list[dict]) -> dict[str, object]:
    """Return each preset's accuracies by seed, their mean and standard deviation, and the minutes."""
    found: dict[str, object] = {"what": "benchmarks/presets.py", "model": "minilm", "test_reviews": 25000}
    for preset in PRESETS:
        own = [run for run in runs if run["preset"] == preset]
        if not own:
            continue
        accuracies = [run["metrics"]["test/accuracy"] for run in own]
        found[preset] = {
            "accuracy": statistics.mean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "minutes_from_an_empty_cache": next(run["minutes"] for run in own if run["seed"] == SEEDS[0]),
            "minutes_with_features": [run["minutes"] for run in own if run["seed"] != SEEDS[0]],
            "runs": [{name: value for name, value in run.items() if name not in KEPT} for run in own],
        }
    return found | {name: runs[0][name] for name in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs, features and the lines of steps lie")
    parser.add_argument("--only", choices=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    lines = arguments.work / "steps.jsonl"
    runs = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    for preset in PRESETS if arguments.only is None else [arguments.only]:
        for seed in arguments.seeds:
            if any((run["preset"], run["seed"]) == (preset, seed) for run in runs):
                continue
            run = measure(preset, seed, reviews=arguments.reviews.resolve(), work=arguments.work.resolve())
            with lines.open("a") as file:
                file.write(json.dumps(run) + "\n")
            runs.append(run)
            write_json(
                arguments.out, summarize(sorted(runs, key=lambda run: (PRESETS.index(run["preset"]), run["seed"])))
            )
            print(f"{preset}, seed {seed}: {run['metrics']['test/accuracy']:.4f}, {run['minutes']} min", flush=True)


if __name__ == "__main__":
    main()
