"""What the presets cost and reach, with MiniLM on all of IMDb: each preset and seed is a step, skipped when done.

    python benchmarks/presets.py --reviews path/to/imdb --work path/to/files

The first seed of a preset begins with an empty cache; the others share its features. Settings were chosen by validation
reviews only; evaluate.py measures the 25,000 test reviews once, and writes the predictions for `neighbours.py --ours`.
Minutes are those of both commands. What is in --out is done: `--again` measures it anew, `--only fast` is one preset.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bertlens.run.folder import environment, write_json

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "presets.json"
PRESETS = {"fast": (1, 2, 3), "balanced": (1, 2, 3), "best": (1, 2, 3), "notebook": (1,)}  # with their seeds


def measure(preset: str, seed: int, *, reviews: Path, work: Path) -> dict[str, Any]:
    """Train and test once, each in its own process; return what is kept, with the minutes that a user waits."""
    cache, folder = work / "cache" / preset, work / f"{preset}_{seed}"
    if seed == PRESETS[preset][0]:
        shutil.rmtree(cache, ignore_errors=True)
    shared = [f"data.path={reviews}", f"cache_dir={cache}", "overwrite=true"]
    start = time.monotonic()
    given = [f"experiment={preset}", "model=minilm", f"seed={seed}", "test=false", f"hydra.run.dir={folder}"]
    run("train.py", *given, *shared)
    run("evaluate.py", f"checkpoint={folder}", f"hydra.run.dir={folder}_test", *shared)
    minutes = (time.monotonic() - start) / 60
    trained, tested = (json.loads(Path(each, "metrics.json").read_text()) for each in (folder, f"{folder}_test"))
    return {
        "preset": preset,
        "seed": seed,
        "features": "stored" if trained["features"]["found"] else "computed",
        "minutes": round(minutes, 2),
        "seconds": {"train": trained["seconds"], "test": tested["seconds"]},
        **{name: tested.get(name) for name in ("metrics", "intervals", *environment())},
    }


def run(*command: str) -> None:
    subprocess.run([sys.executable, str(REPOSITORY / command[0]), *command[1:]], check=True)


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each preset's accuracies by seed, their mean and standard deviation, and the minutes."""
    found: dict[str, Any] = {"what": "benchmarks/presets.py", "model": "minilm", "test_reviews": 25000}
    for preset in PRESETS:
        own = sorted((each for each in runs if each["preset"] == preset), key=lambda each: each["seed"])
        accuracies = [each["metrics"]["test/accuracy"] for each in own]
        if own:
            found[preset] = {
                "accuracy": statistics.mean(accuracies),
                "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                "runs": own,
            }
    return found | environment()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs and features lie")
    parser.add_argument("--only", choices=list(PRESETS))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--again", action="store_true", help="measure also what --out holds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    written = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    runs = {
        (each["preset"], each["seed"]): each for preset in PRESETS for each in written.get(preset, {}).get("runs", [])
    }
    for step in ((preset, seed) for preset in PRESETS for seed in arguments.seeds or PRESETS[preset]):
        preset, seed = step
        if arguments.only not in (None, preset) or (step in runs and not arguments.again):
            continue
        found = measure(preset, seed, reviews=arguments.reviews.resolve(), work=arguments.work.resolve())
        runs[step] = found
        write_json(arguments.out, summarize(list(runs.values())))
        print(f"{preset}, seed {seed}: {found['metrics']['test/accuracy']:.4f}, {found['minutes']} min", flush=True)


if __name__ == "__main__":
    main()
