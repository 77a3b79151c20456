"""From a command line to a task: Hydra composes, the schema checks, a user's mistake becomes one line."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bertlens.cli.command_line import for_hydra, resume_command
from bertlens.config import CONF, SCHEMAS, keys_of, typed
from bertlens.errors import InputError
from bertlens.system import stopping
from bertlens.system.escape import VisibleLines, one_line_of, visible
from bertlens.system.files import atomic_write
from bertlens.system.memory import keep_freed_memory
from bertlens.targets import check_names

FULL_ERROR = "HYDRA_FULL_ERROR"
ERROR_FILE = "error.txt"
USERS_ERRORS = (InputError, HydraException, OmegaConfBaseException, MisconfigurationException, yaml.YAMLError)

HELP = """{purpose}

Keys, each set as KEY=VALUE (separate several values by commas and add -m to run them all):

{keys}

Groups: {groups}
A key that belongs to a group is best set after it: model=minilm model.trainable_layers=2.
Hydra's own options: python {name}.py --hydra-help
"""
PURPOSES = {
    "train": "Fine-tune BERT on reviews and measure the test reviews.",
    "evaluate": "Measure a checkpoint on test reviews: python evaluate.py checkpoint=PATH",
    "visualize": "Show which words a checkpoint's verdicts rest on: python visualize.py checkpoint=PATH",
}


class CheckedConfigLoader(ConfigLoaderImpl):
    """Hydra's loader, which every composition passes through, a sweep's too, and in the processes of a launcher.

    The check belongs here: Hydra makes objects of hydra.callbacks, of the logging and of the sweeper before it calls
    the task. Its own list of what must not be named cannot know what else is installed. Hydra has no public place for
    this, so the loader's name is replaced, and pyproject.toml keeps to the versions that have it.
    """

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        composed = super().load_configuration(*arguments, **options)
        check_names(composed)
        return composed


def launch(name: str, task: Callable[[Any, Path], object]) -> None:
    """Run `task(config, run_folder)` under Hydra with conf/<name>.yaml; a sweep runs it once a job.

    Exits with status 1 after one line on stderr when the user can mend what went wrong. With HYDRA_FULL_ERROR=1 there
    is a traceback instead.
    """
    schema = SCHEMAS[name]
    full_error = os.environ.get(FULL_ERROR)
    given = sys.argv[1:]
    keep_freed_memory()
    hydra._internal.hydra.ConfigLoaderImpl = CheckedConfigLoader  # type: ignore[attr-defined]
    OmegaConf.register_new_resolver("bertlens_help", help_text, replace=True)

    def job(composed: DictConfig) -> None:
        if full_error is None:
            os.environ.pop(FULL_ERROR, None)
        run_folder = Path(HydraConfig.get().runtime.output_dir)
        (run_folder / ERROR_FILE).unlink(missing_ok=True)  # of an earlier try
        try:
            with _quiet(), stopping.stoppable():
                task(typed(composed, schema), run_folder)
        except stopping.Stopped as stop:
            print(
                f"{stop}" + (f"; to go on:\n{going_on(given, run_folder)}" if name == "train" else ""),
                file=sys.stderr,
            )
            raise SystemExit(stop.exit_status) from None
        except Exception as error:
            known = is_for_the_user(error)
            if full_error == "1" or not (known or is_sweep()):
                raise
            if not known:
                print(visible(traceback.format_exc()), file=sys.stderr)
            line = one_line(error)
            print(f"error: {line}", file=sys.stderr)
            if not is_sweep():
                raise SystemExit(1) from error
            # the other jobs go on; the table at the end names this one and the exit status tells
            with suppress(OSError):  # where nothing can be written the table says that it did not finish
                write_error(run_folder, line)

    try:
        sys.argv[1:] = for_hydra(given, schema)
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them over several lines
        with stopping.stoppable():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
    except stopping.Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_status) from None
    except Exception as error:
        if full_error == "1" or not is_for_the_user(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from error


def going_on(given: list[str], run_folder: Path) -> str:
    """What to type to go on with a run of train.py, or with the sweep it is part of."""
    if is_sweep():
        return resume_command(given, "hydra.sweep.dir", Path(HydraConfig.get().sweep.dir))
    return resume_command(given, "hydra.run.dir", run_folder)


def is_for_the_user(error: BaseException) -> bool:
    """Whether a line says all: a wrong setting, or a file that could not be read or written, with its path."""
    if isinstance(error, USERS_ERRORS):
        return True
    return isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror is not None


def write_error(folder: Path, line: str) -> None:
    """Why a job of a sweep failed, for the table at its end."""
    with atomic_write(folder / ERROR_FILE, "w") as file:
        file.write(line + "\n")


def is_sweep() -> bool:
    """Whether this run is one job of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes on what is meant here, left out; its warnings on anything else come through."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(VisibleLines("%(message)s"))
    logging.basicConfig(handlers=[terminal], level=logging.WARNING)
    logging.getLogger("bertlens").setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # advertising, and which devices it sees
    with warnings.catch_warnings():
        # the frozen prefix is in eval mode on purpose; batches are one vectorised look-up and need no workers
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # the data module has the loader's place, see its state_dict
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        # where a run goes on
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield


def one_line(error: BaseException) -> str:
    """An error as a single line, with control characters spelt out."""
    text = str(error) or type(error).__name__
    if not is_for_the_user(error):
        text = f"{type(error).__name__}: {text}"
    elif not isinstance(error, USERS_ERRORS) and isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}"
    return one_line_of(text)


def help_text(name: str) -> str:
    """What --help prints: every key with its meaning."""
    keys = keys_of(SCHEMAS[name])
    width = max(map(len, keys))
    groups = [
        f"{folder.name}={'|'.join(sorted(path.stem for path in folder.glob('*.yaml')))}"
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and name == "train"
    ]
    text = HELP.format(
        purpose=PURPOSES[name],
        keys="\n".join(f"  {key:<{width}}  {meaning}" for key, meaning in keys.items()),
        groups=", ".join(groups) or "none",
        name=name,
    )
    return text.replace("$", "$$")  # Hydra takes this for a string.Template
