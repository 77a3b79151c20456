"""What a sweep says as each of its jobs begins, and how jobs that run side by side keep their lines apart."""

import io
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from hydra.errors import HydraException

from bertlens.cli.command_line import parse_overrides
from bertlens.run.folder import Run
from bertlens.system.escape import one_line_of
from bertlens.system.stopping import is_main_process


class PrefixedLines(io.TextIOBase):
    """Write each line whole and after a prefix. It is no terminal, so it gets no progress bars."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._unfinished = stream, prefix, ""

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        self._stream.flush()
        return len(text)


def announce(run: Run, arguments: Sequence[str], *, side_by_side: bool) -> None:
    """Print the number of a job and what varies: `[3/8] optimizer.lr=5e-05`, or `[3]` if only the sweeper knows more.

    side_by_side: this process runs jobs only, beside others; from here on each of its lines begins with the number.
    """
    overrides = parse_overrides(arguments)
    sweeps = [override for override in overrides if override.is_sweep_override()]
    total = ""  # another sweeper, or one that is told in conf/ what to vary, decides by itself
    if run.hydra.sweeper._target_.endswith("BasicSweeper") and not run.hydra.sweeper.params:
        with suppress(HydraException):  # of a glob
            total = f"/{math.prod(len(list(override.sweep_iterator())) for override in sweeps)}"
    prefix = f"[{run.number + 1}{total}] "
    if side_by_side and sys.__stdout__ and sys.__stderr__:
        sys.stdout, sys.stderr = PrefixedLines(sys.__stdout__, prefix), PrefixedLines(sys.__stderr__, prefix)
        prefix = ""
    fixed = {override.get_key_element() for override in overrides if override not in sweeps}
    varied = [override for override in run.overrides if override.partition("=")[0] not in fixed]
    if is_main_process():
        print(prefix + one_line_of(", ".join(varied) or "as typed"), flush=True)
