"""Write docs/terminal.md: what a run, a sweep, a failing sweep and Ctrl-C look like at 80 columns, before and now.

pip install pyte
python docs/make_transcripts.py --before ../checkout-of-an-earlier-commit
"""

import argparse
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import termios
from pathlib import Path

import pyte

FOLDER = Path(__file__).parent
COLUMNS, ROWS = 80, 50
FIRST, LAST = 45, 15  # lines that are kept of longer transcripts
DEMO = "python train.py experiment=demo"
SWEEP = "python train.py -m experiment=demo data.num_demo_reviews=300 trainer.max_epochs=2"
SCENES = {
    "A run": DEMO,
    "A sweep": f"{SWEEP} optimizer.lr=5e-05,1e-3 seed=1,2",
    "A sweep with a job that fails": f"{SWEEP} model.trainable_layers=1,9",
    "Ctrl-C, and going on": f"{DEMO} data.num_demo_reviews=900",
}
SECOND_EPOCH = re.compile("epoch 2/12: |Epoch 1/11 ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    arguments = parser.parse_args()
    parts = ["# What the terminal shows", "Written by `python docs/make_transcripts.py`, which runs each command."]
    for title, command in SCENES.items():
        parts.append(f"## {title}")
        for when, checkout in (("Before", arguments.before), ("Now", FOLDER.parent)):
            parts.append(f"{when}:\n\n```text\n{play(checkout, command, stop=title.startswith('Ctrl-C'))}\n```")
            print(f"{title}, {parts[-1]}", flush=True)
    (FOLDER / "terminal.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def play(checkout: Path, command: str, *, stop: bool) -> str:
    """Return what the command shows in a new clone. With `stop`, it is stopped and then the printed command goes on."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", checkout.resolve(), folder], check=True, stderr=subprocess.DEVNULL)
        shown = run(command, folder, stop=stop)
        unbroken = "".join(line if len(line) == COLUMNS else f"{line}\n" for line in shown)
        if stop and (printed := re.findall("^python .*", unbroken, re.MULTILINE)):
            shown += ["", *run(printed[-1], folder, stop=False)]
    return "\n".join(shown if len(shown) <= FIRST + LAST else [*shown[:FIRST], "⋮", *shown[-LAST:]])


def run(command: str, folder: str, *, stop: bool) -> list[str]:
    """Return the lines that a command leaves on a terminal. With `stop`, press Ctrl-C in the second epoch."""
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    typed = [sys.executable if word == "python" else word for word in shlex.split(command)]
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
        os.chdir(folder)
        termios.tcsetwinsize(0, (ROWS, COLUMNS))
        os.execve(typed[0], typed, environ | {"PYTHONPATH": f"{folder}/src", "TERM": "xterm"})
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=100_000)
    stream = pyte.ByteStream(screen)
    while select.select([terminal], [], [], 900)[0]:
        try:
            stream.feed(os.read(terminal, 65536))
        except OSError:  # the command has ended
            break
        if stop and SECOND_EPOCH.search("\n".join(screen.display)):
            os.write(terminal, b"\x03")
            stop = False
    os.waitpid(child, 0)
    rows = [*screen.history.top, *(screen.buffer[line] for line in range(ROWS))]
    lines = ["".join(row[column].data for column in range(COLUMNS)).rstrip() for row in rows]
    text = "\n".join(lines).replace(sysconfig.get_path("purelib"), "site-packages")
    return [f"$ {command}", *text.rstrip().splitlines()]


if __name__ == "__main__":
    main()
