"""Start entry points quickly: import everything once, then fork this process for each run.

Read one request per line from stdin, {"script", "arguments", "folder", "output", "attributes", "announced"}, and print
the id of its process. The exit status of a run is written to `<output>.exit`, unless the run is killed.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

PRELOADED = (
    "bertlens.build",
    "bertlens.cli.launch",
    "bertlens.report.write",
    "bertlens.run.summary",
    "bertlens.run.tensorboard",
)


def announce(name: str, seconds: float) -> None:
    """Make a function, `module:attribute.attribute`, print `@ <its name>` and sleep whenever it is called."""
    module, path = name.split(":")
    *owners, attribute = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, attribute)

    @wraps(function)
    def announced(*arguments: Any, **options: Any) -> Any:
        os.write(1, f"@ {attribute}\n".encode())
        time.sleep(seconds)
        return function(*arguments, **options)

    setattr(owner, attribute, announced)


def run(request: dict[str, Any]) -> int:
    """Run an entry point in this process as a shell would, and return its exit status."""
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.argv = [request["script"], *request["arguments"]]
    for name, value in request["attributes"].items():
        module, attribute = name.rsplit(".", 1)
        setattr(importlib.import_module(module), attribute, value)
    for name, seconds in request["announced"].items():
        announce(name, seconds)
    try:
        runpy.run_path(request["script"], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended runs are cleared away by the system
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = run(request)
            sys.stdout.flush()
            sys.stderr.flush()
            Path(f"{request['output']}.exit").write_text(str(status))
            os._exit(status)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
