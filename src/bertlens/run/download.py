"""Find or download what a run reads from the hub, before torch is imported: a missing network is reported at once."""

from contextlib import suppress

from bertlens.config import TrainConfig
from bertlens.errors import InputError


def download(config: TrainConfig) -> None:
    """Fill the hub's cache with the model and the reviews. Raise `InputError` for what is nowhere to be had."""
    if config.features.clear:
        return
    from bertlens.model.published import find_folder  # imports the hub's client, which takes a moment
    from bertlens.system.hub import fetch

    find_folder(config.model)
    name, revision = config.data.hub_name, config.data.hub_revision
    if config.data.path is not None or config.data.source != "hub":
        return
    with suppress(OSError):
        fetch(name, repo_type="dataset", revision=revision, offline_only=True)
        return
    try:
        fetch(name, repo_type="dataset", revision=revision)
    except OSError as error:
        raise InputError(
            f"data.hub_name={name!r}: neither on this machine nor available from the hub ({error}). Without a network, "
            "set data.path to a folder of reviews, or run experiment=demo"
        ) from error
