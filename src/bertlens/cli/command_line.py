"""Between what a person types and what Hydra reads: short forms written out, and the commands that go on with a run."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from bertlens.errors import InputError
from bertlens.system.settings import keys

FREE_TEXT = ("text", "file", "output")
OWN_FILES = ("data.train_file", "data.validation_file", "data.test_file")
MULTIRUN = ("-m", "--multirun")
NO_GROUP = ("logger=false", "logger=null", "callbacks=false", "callbacks=null")
NEEDS_OPTION = ("data=null", "experiment=null", "model=null")
LAUNCHER_SLURM = "hydra/launcher=slurm"
OVERRIDES = Path(".hydra", "overrides.yaml")


def for_hydra(typed: list[str], schema: type) -> list[str]:
    """Return a command line as Hydra reads it. Raise `InputError` for what it cannot read, or no run to resume."""
    known = keys(schema)
    for before, argument, after in zip(["", *typed], typed, [*typed[1:], ""], strict=False):
        is_override = "=" in argument or argument[:1] in "-~" or (before[:1] == "-" and before not in MULTIRUN)
        if argument.startswith("=") or not is_override:
            example = f": {argument}={after}" if argument in known and after and "=" not in after else ""
            raise InputError(f"{argument}: not a key with its value; write KEY=VALUE without a space{example}")
        if argument in NEEDS_OPTION:
            raise InputError(f"{argument}: this group needs an option; name one, or leave {argument} out")
    in_order = sorted(typed, key=lambda argument: argument not in MULTIRUN)  # argparse takes it first, or last
    written_out = [_write_out(argument, set(known)) for argument in in_order]
    if "optimizer.lr" not in known or any(option in typed for option in ("-sc", "--shell-completion")):
        return written_out
    arguments = _add_resumed(written_out)
    given = tuple(argument.partition("=")[0] for argument in arguments)
    if "data" not in given and any(key in given for key in OWN_FILES):
        arguments.append("data=files")  # files that are named are read
    return _add_sweep(_add_folds(arguments))


def _write_out(argument: str, known: set[str]) -> str:
    """Write out `checkpoint=PATH` and `logger=false`, and quote a free text, which is no value of Hydra's grammar."""
    if argument in NO_GROUP and "logger" in known:
        return argument.partition("=")[0] + "=none"
    if argument.startswith("checkpoint=") and "checkpoint.path" in known:
        argument = argument.replace("checkpoint=", "checkpoint.path=", 1)
    name, _, value = argument.partition("=")
    if name in FREE_TEXT and name in known and value[:1] not in ("[", "'", '"', ""):
        return f"{name}={_quote(value)}"
    if name == "checkpoint.path" or (name == "checkpoint" and name in known) or name in ("resume", "distill"):
        return f"{name}={value if re.fullmatch(PLAIN_PATH, value) or value[:1] in QUOTES else _quote(value)}"
    return argument


PLAIN_PATH = r"[\w./+:-]*|\?\?\?"
QUOTES = ("'", '"', "$")


def _quote(value: str) -> str:
    """Quote a text for Hydra, where a backslash is special only before a quote, and ${ begins an interpolation."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def _add_resumed(arguments: list[str]) -> list[str]:
    """Write `resume=RUN_FOLDER` out: that run's own overrides, its folder, then what is given beside it."""
    for argument in arguments:
        folder_name = argument.removeprefix("resume=").strip("'")
        if not argument.startswith("resume=") or folder_name in ("auto", "null", ""):
            continue
        folder = Path(folder_name).expanduser()
        if not (folder / OVERRIDES).is_file():
            raise InputError(
                f"{argument}: no run's folder ({folder / OVERRIDES} is missing); give the folder that holds "
                "checkpoints/, or go on from a file with checkpoint=PATH"
            )
        earlier = [str(override) for override in OmegaConf.load(folder / OVERRIDES)]
        others = [other for other in arguments if other != argument]
        given = {other.partition("=")[0] for other in others}
        kept = [override for override in earlier if override.partition("=")[0] not in given | {"resume", "overwrite"}]
        run_dir = [] if "hydra.run.dir" in given else [f"hydra.run.dir={_quote(str(folder))}"]
        return [*kept, *run_dir, *others, argument]
    return arguments


def _add_folds(arguments: list[str]) -> list[str]:
    """Let `data.folds=5` be a sweep of five jobs, which keep the last epoch and measure no test reviews."""
    given = {each.key_or_group: each.value() for each in parse_overrides(arguments)}
    folds, repeats = given.get("data.folds"), given.get("data.fold_repeats", 1)
    if "data.fold" in given or type(folds) is not int or type(repeats) is not int or folds < 2 or repeats < 1:
        return arguments
    jobs = ",".join(map(str, range(1, folds * repeats + 1)))
    more = {"checkpoint.keep": "last", "test": "false", "data.fold": jobs}
    options = ["-m"] * (not any(option in arguments for option in MULTIRUN))
    return [*options, *arguments, *(f"{key}={value}" for key, value in more.items() if key not in given)]


def _add_sweep(arguments: list[str]) -> list[str]:
    """Name a sweep's jobs by what varies, and let all of them share one store."""
    overrides = parse_overrides(arguments)
    if not any(option in arguments for option in MULTIRUN):
        return arguments
    if LAUNCHER_SLURM in arguments and shutil.which("srun") is None:
        raise InputError(
            f"{LAUNCHER_SLURM}: there is no SLURM here (no command srun); leave it out to run the jobs one after the "
            "other, or run them side by side with hydra/launcher=joblib"
        )
    if LAUNCHER_SLURM in arguments and not any(each.key_or_group == "trainer.devices" for each in overrides):
        return _add_sweep([*arguments, "trainer.devices=1"])  # auto is no number of tasks
    varied = [override for override in overrides if override.is_sweep_override()]
    varied_keys = {override.key_or_group for override in varied}  # without the + of a new key, as Hydra excludes them
    fixed = {override.key_or_group for override in overrides} - varied_keys | {"features.max_trainable_layers"}
    names = sorted(key for key in fixed - varied_keys if not key.startswith("hydra"))
    more = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(_quote, names))}]"]
    if not varied and not any(argument.startswith(("hydra.sweep", "hydra/sweep")) for argument in arguments):
        more.append("hydra.sweep.subdir=${hydra.job.num}")
    for override in varied:
        if override.key_or_group == "model.trainable_layers" and override.is_discrete_sweep():
            layers = [value for value in override.sweep_iterator() if isinstance(value, int)]
            if layers and not any(argument.startswith("features.max_trainable_layers=") for argument in arguments):
                more.append(f"features.max_trainable_layers={max(layers)}")
    return arguments + [argument for argument in more if argument not in arguments]


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Return the overrides of a command line as Hydra reads them. Raise `InputError` for one that it cannot read."""
    parser, overrides = OverridesParser.create(), []
    for argument in arguments:
        if argument.startswith("-") or ("=" not in argument and argument[:1] != "~"):
            continue
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException as error:
            line = str(error).splitlines()[0]
            raise InputError(f"{argument}: not KEY=VALUE as Hydra reads it ({line}); quote what is special") from error
    return overrides


def resume_command(program: list[str], typed: list[str], folder: str, *, in_sweep: bool) -> str:
    """Return what to type to go on with a stopped run, or with the sweep in `folder` that it belongs to."""
    if not in_sweep:
        return shlex.join([*program, f"resume={folder}"])
    kept = [argument for argument in typed if not argument.startswith(("hydra.sweep.dir=", "resume="))]
    # Hydra takes no override after an option that follows one
    place = next((index for index, argument in enumerate(kept) if "=" in argument and argument[0] != "-"), len(kept))
    path = folder if re.fullmatch(PLAIN_PATH, folder) else _quote(folder)
    return shlex.join([*program, *kept[:place], f"hydra.sweep.dir={path}", *kept[place:]])
