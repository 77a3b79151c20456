"""The console command: `bertlens train`, `evaluate` and `visualize` run the scripts of these names."""

import importlib.metadata
import runpy
import sys
from pathlib import Path

from bertlens.cli.help import PURPOSES
from bertlens.system.escape import one_line_of

# a wheel has the scripts and conf/ in the package; an editable install leaves them at the root of the repository
PACKAGE = Path(__file__).parents[1]
SCRIPTS = next(folder for folder in (PACKAGE / "commands", PACKAGE.parents[1]) if (folder / "train.py").is_file())


def main() -> None:
    """Run the script that the first argument names, with the other arguments."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if name in PURPOSES:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    elif name == "--version":
        print(f"bertlens {importlib.metadata.version('bertlens')}")
    elif name in ("--help", "-h"):
        commands = "\n".join(f"  {command:<10}{purpose}" for command, purpose in PURPOSES.items())
        print(f"usage: bertlens COMMAND [KEY=VALUE ...]\n\n{commands}\n\nbertlens COMMAND --help lists its keys.")
    else:
        sys.exit(f"error: {one_line_of(name)}: no such command; choose one of {', '.join(PURPOSES)}")
