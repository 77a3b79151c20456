"""How much the accuracy of the real job varies with the seed, from a finished sweep over `seed`:

python train.py -m seed=1,2,3,1234 model=minilm data.path=path/to/imdb
python benchmarks/seeds.py outputs/sweeps/DATE/TIME --out benchmarks/results/imdb_minilm_seeds.json
"""

import argparse
import json
import statistics
from pathlib import Path

from bertlens.run.folder import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.sweep.glob("*/metrics.json"))]
    accuracy = {str(run["seed"]): run["metrics"]["test/accuracy"] for run in runs}
    found = {
        "what": "benchmarks/seeds.py",
        "test/accuracy": accuracy,
        "mean": statistics.mean(accuracy.values()),
        "standard_deviation": statistics.stdev(accuracy.values()),
        "versions": runs[0]["versions"],
        "commit": runs[0]["commit"],
        "machine": runs[0]["machine"],
    }
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
