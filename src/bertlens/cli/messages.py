"""Errors as one line each, for the person who can mend them."""

import difflib
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from bertlens.errors import InputError
from bertlens.system.escape import one_line_of
from bertlens.system.settings import keys

USERS_ERRORS = (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError)
PLUGINS = ("hydra/launcher", "hydra/sweeper")  # groups whose options are packages
EXTRAS = {"joblib": "sweep", "submitit_slurm": "slurm"}  # of this package, by the option that they bring
INSTEAD = {"num_workers": "; batches are one look-up, which needs no workers: leave it out"}  # of a key
# by name: importing them would take seconds
LIGHTNINGS_ERROR, SUBMITITS_ERROR = "MisconfigurationException", "FailedJobError"


def is_for_the_user(error: BaseException) -> bool:
    """Return whether a line says all: a wrong setting, or a file that could not be read or written, with its path."""
    if isinstance(error, USERS_ERRORS) or type(error).__name__ == LIGHTNINGS_ERROR:
        return True
    if type(error).__name__ == SUBMITITS_ERROR and str(error).startswith("sbatch: error"):
        return True  # SLURM's own words: a partition or an account that is not there
    return isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror is not None


def one_line(error: BaseException, schema: type | None = None) -> str:
    """Return an error as one line, with control characters spelt out; an unknown key with the nearest known one."""
    text = str(error) or type(error).__name__
    wrong = next((each for each in (error, error.__cause__) if getattr(each, "full_key", None)), None)
    if isinstance(wrong, OmegaConfBaseException):
        key = str(wrong.full_key)
        known = keys(schema) if schema is not None else {}
        if type(wrong).__name__ in ("ConfigAttributeError", "ConfigKeyError") and key not in known:
            text = no_such_key(key, list(known))
        elif isinstance(wrong, MissingMandatoryValue):
            text = f"{key}: it needs a value ({known[key].meaning}); write {key}=VALUE"
        elif "is not a ListConfig" in str(wrong):
            text = f"{key}: a list; write '{key}=[…]', also for one value"
        elif "is not Optional" in str(wrong):
            text = f"{key}=null: it needs a value; give one, or leave {key} out"
        else:
            text = f"{key}: {(str(wrong) or text).splitlines()[0]}"
    elif isinstance(error, MissingConfigException) and error.options is not None:
        text = _no_such_option(str(error.missing_cfg_file), error.options)
    elif not is_for_the_user(error):
        text = f"{type(error).__name__}: {text}"
    elif isinstance(error, OSError) and not isinstance(error, HydraException):
        text = f"{error.filename}: {error.strerror}"
    return one_line_of(text.partition("Config search path:")[0])


def no_such_key(key: str, known: list[str]) -> str:
    """Return that a key does not exist, with the nearest known one."""
    last = key.rsplit(".", 1)[-1]
    names = [*known, *dict.fromkeys(name.split(".")[0] for name in known)]
    near = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f"{key}: no such key{INSTEAD.get(last) or _nearest(key, names, near)} (--help lists the keys)"


def _no_such_option(file: str, options: Sequence[str]) -> str:
    """Return that a group has no such option, with the nearest one; of a plugin of Hydra's, how to install it."""
    group, _, option = file.rpartition("/")
    if group in PLUGINS:
        extra = EXTRAS.get(option)
        package = f"bertlens[{extra}]" if extra else f"hydra-{option.partition('_')[0]}-{group[6:]}"
        return f'{group}={option}: not installed; pip install "{package}"'
    names = [f"{group}={each}" for each in options]
    return f"{group}={option}: no such option, only {', '.join(options)}{_nearest(f'{group}={option}', names)}"


def _nearest(name: str, names: Sequence[str], near: Sequence[str] = ()) -> str:
    near = near or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
