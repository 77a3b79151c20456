"""From a command line to a task: Hydra composes, the schema checks, and a user's mistake becomes one line.

Nothing heavy (torch, Lightning) is imported here: --help and a misspelt key are answered at once.
"""

import dataclasses
import importlib.metadata
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bertlens.cli.command_line import for_hydra, resume_command
from bertlens.cli.help import show_help
from bertlens.cli.jobs import announce
from bertlens.cli.messages import is_for_the_user, no_such_key, one_line
from bertlens.config import SCHEMAS, TrainConfig
from bertlens.errors import InputError
from bertlens.run.download import download
from bertlens.run.folder import Run, started_as
from bertlens.system import stopping
from bertlens.system.escape import VisibleLines, visible
from bertlens.system.files import relative
from bertlens.system.memory import keep_freed_memory
from bertlens.system.settings import check, keys
from bertlens.system.stopping import is_main_process

FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(name: str, task: Callable[[Any, Run], Any], *, conf: Path) -> None:
    """Run `task(config, run)` under Hydra with `conf`/`name`.yaml; a sweep runs it once per job.

    A folder conf/ of the current folder is read instead of `conf` if it has such a file.
    Exit with status 1 after one line on stderr if the user can mend what went wrong. With HYDRA_FULL_ERROR=1 there is a
    traceback instead.
    """
    schema, given, program = SCHEMAS[name], sys.argv[1:], started_as(name)
    main_process, own = os.getpid(), Path.cwd() / "conf"
    conf = own if (own / f"{name}.yaml").is_file() else conf
    full_error = os.environ.get(FULL_ERROR) == "1"
    for each, kind in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{each}_schema", node=kind)
    keep_freed_memory()

    def job(composed: DictConfig) -> Any:
        if not full_error:
            os.environ.pop(FULL_ERROR, None)  # Lightning may start further processes of this run
        run = Run.of_hydra()
        if run.in_sweep:
            announce(run, arguments, side_by_side=os.getpid() != main_process)
        try:
            with _quiet(verbose=bool(HydraConfig.get().verbose)), stopping.stoppable():
                config = read_config(composed)
                if isinstance(config, TrainConfig):
                    download(config)
                return returned_value(config, task(config, run))
        except stopping.Stopped as stop:
            stop.hand_on()
            if stop.exit_status:  # 0: another process of the run reports it
                print(f"{stop}; to go on:\n{_going_on(program, given, run)}", file=sys.stderr)
            raise SystemExit(stop.exit_status) from None
        except Exception as error:
            if full_error or not (run.in_sweep or is_for_the_user(error)):
                raise
            if not is_for_the_user(error):
                print(visible(traceback.format_exc()), file=sys.stderr)
            line = one_line(error, schema)
            print(f"error: {line}", file=sys.stderr)
            if not run.in_sweep:
                raise SystemExit(1) from error
            # the other jobs go on; the table at the end names this one, and the exit status tells
            with suppress(OSError):
                run.write_error(line)
            return float("nan")
        finally:
            with suppress(OSError):  # it holds something
                run.folder.rmdir()

    try:
        if "--version" in given:
            print(f"bertlens {importlib.metadata.version('bertlens')}")
            return
        if "--help" in given or "-h" in given:
            if hasattr(signal, "SIGPIPE"):
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without an error
            show_help(name, [argument for argument in given if argument not in ("--help", "-h")], conf, program)
            return
        sys.argv[1:] = arguments = for_hydra(given, schema)
        os.environ[FULL_ERROR] = "1"  # documented: Hydra raises its errors instead of printing them over several lines
        with stopping.stoppable():
            have_ended = run_jobs(hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(job))
        finish_sweep(program, given, have_ended=have_ended)
    except stopping.Stopped as stop:
        if stop.exit_status:
            print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_status) from None
    except Exception as error:
        if full_error or not is_for_the_user(error):
            raise
        print(f"error: {one_line(error, schema)}", file=sys.stderr)
        raise SystemExit(1) from error


def read_config(composed: DictConfig) -> Any:
    """Return a composed configuration as an object of its schema. Raise `InputError` for all that is wrong in it."""
    try:
        config = OmegaConf.to_object(composed)
    except RecursionError as error:
        raise InputError("a value is an interpolation, ${...}, of itself: give it a value of its own") from error
    if unknown := list(_unknown_keys(OmegaConf.to_container(composed, resolve=False), config)):
        raise InputError("; ".join(no_such_key(key, list(keys(type(config)))) for key in unknown))
    check(config)
    return config


def _unknown_keys(composed: Any, settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield keys that the schema does not have: Hydra adds what is written as +section.key=value."""
    sections = {field.name: "key" not in field.metadata for field in dataclasses.fields(settings)}
    for name, value in composed.items():
        if name not in sections:
            yield f"{prefix}{name}"
        elif sections[name]:
            yield from _unknown_keys(value, getattr(settings, name), f"{prefix}{name}.")


def returned_value(config: Any, metrics: Any) -> Any:
    """Return what a Hydra sweeper optimizes: one metric of a training run; NaN if the run has none."""
    if not hasattr(config, "optimized_metric"):
        return None
    return float((metrics or {}).get(config.optimized_metric, float("nan")))


def run_jobs(run: Callable[[], Any]) -> bool:
    """Let Hydra run the job, or all jobs of a sweep. Return false if one was cancelled, or is no longer awaited."""
    from bertlens.run.sweep import earlier_jobs

    try:
        try:
            run()
            return True
        except Exception as error:
            if type(error).__name__ != "UncompletedJobError":  # submitit's; importing it takes time
                raise
            from bertlens.run.slurm import note_cancelled_jobs

            for folder, earlier in earlier_jobs.items():
                note_cancelled_jobs(folder, earlier=earlier)
    except KeyboardInterrupt:  # handled, except while this process only waits for SLURM
        print("\nSLURM goes on with the jobs; scancel ends them", file=sys.stderr)
    return False


def finish_sweep(program: list[str], given: list[str], *, have_ended: bool) -> None:
    """Print and write the table of the sweep that just ended, if one did; exit with 1 if a job failed."""
    from bertlens.run.sweep import earlier_jobs, write_table

    failed = [folder for folder in earlier_jobs if not write_table(folder)]
    if not have_ended:
        commands = [resume_command(program, given, relative(folder), in_sweep=True) for folder in earlier_jobs]
        print("to go on with what is not finished:", *commands, sep="\n", file=sys.stderr)
    if failed or not have_ended:
        raise SystemExit(1)


def _going_on(program: list[str], given: list[str], run: Run) -> str:
    if program[-1].endswith(("train", "train.py")) and (run.has_begun or run.in_sweep):
        folder = Path(HydraConfig.get().sweep.dir) if run.in_sweep else run.folder
        return resume_command(program, given, relative(folder), in_sweep=run.in_sweep)
    if program[-1].endswith(("predict", "predict.py")) and "output=-" not in given:
        given = [*(each for each in given if not each.startswith(("overwrite=", "resume="))), "resume=true"]
    return shlex.join([*program, *given])


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether to show a log message: not what Lightning advertises, or which devices it sees."""
    is_lightnings = record.name.startswith(("pytorch_lightning", "lightning_fabric"))
    is_asked_for = record.name.startswith(("pytorch_lightning.profilers", "pytorch_lightning.callbacks"))
    return record.levelno >= logging.WARNING or is_asked_for or not is_lightnings


@contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Hide Lightning's notes on what is meant here; its warnings on anything else come through."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(VisibleLines("%(message)s"))
    if not verbose:
        terminal.addFilter(_is_worth_a_line)
    logging.basicConfig(handlers=[terminal], level=logging.DEBUG if verbose else logging.WARNING, force=True)
    logging.getLogger("bertlens").setLevel(
        logging.DEBUG if verbose else logging.INFO if is_main_process() else logging.WARNING
    )
    with warnings.catch_warnings():
        # batches are one vectorised look-up and need no workers
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # the data module has the loader's place, see its state_dict
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        # each epoch has its line and its points
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
        # on a machine from which SLURM jobs are submitted
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        # where a run goes on
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield
