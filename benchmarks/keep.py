"""Keep what a run measured: `python benchmarks/keep.py outputs/train/DATE/TIME --out benchmarks/results/demo.json`.

Its metrics.json without the settings, whose paths are those of one machine.
"""

import argparse
import json
from pathlib import Path

from bertlens.run.folder import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = json.loads((arguments.run / "metrics.json").read_text(encoding="utf-8"))
    write_json(arguments.out, {name: value for name, value in found.items() if name != "settings"})


if __name__ == "__main__":
    main()
