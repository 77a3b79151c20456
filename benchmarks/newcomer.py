"""Measure a newcomer's time from `git clone` to a report with reasons: clone, `make demo`, report.html is there.

    python benchmarks/newcomer.py --out benchmarks/results/newcomer.json

On a machine that does nothing else, pip's cache aside: wheels come from the network.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bertlens.run.folder import environment, write_json

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    seconds, load = {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            "clone": ["git", "clone", "--quiet", str(ROOT), folder],
            "installation": ["make", "-C", folder, ".venv/demo"],
            "demo": ["make", "-C", folder, "demo"],
        }
        for name, command in steps.items():
            start = time.perf_counter()
            subprocess.run(command, check=True)
            seconds[name] = time.perf_counter() - start
        assert (Path(folder) / "outputs" / "latest" / "report.html").is_file()
    seconds["total"] = sum(seconds.values())
    write_json(arguments.out, {"what": "benchmarks/newcomer.py", "seconds": seconds, "load": load, **environment()})


if __name__ == "__main__":
    main()
