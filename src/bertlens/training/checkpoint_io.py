"""How Lightning writes and reads checkpoint files, and the state of the random numbers in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor, distributed

from bertlens.errors import InputError
from bertlens.model.checkpoint import read_raw
from bertlens.system.files import atomic_write

PLAIN_TYPES = (type(None), bool, int, float, str, bytes)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and read them without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if found := next(_find_objects(checkpoint), None):
            raise InputError(
                f"{found}: a checkpoint holds plain values only, so leave out the callback that saves this"
            )
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return read_raw(Path(path))


def _find_objects(value: Any, name: str = "") -> Iterator[str]:
    """Yield the place and type of each value that could not be read back: reading makes no objects but tensors."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_objects(inner, f"{name}.{key}".lstrip("."))
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            yield from _find_objects(inner, f"{name}.{index}")
    elif not isinstance(value, Tensor) and type(value) not in PLAIN_TYPES:
        yield f"{name} is a {type(value).__name__}"


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators. Only dropout draws from them; the order of reviews has its own seed."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def gather_objects(own: Any) -> list[Any]:
    """Return an object of each process of the run, by rank. Each of them must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, own)
    return gathered
