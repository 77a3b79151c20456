import logging

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from bertlens.system import hub
from bertlens.system.hub import fetch


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What is asked of the hub's client, which answers every question."""
    made = []

    class Api:
        def repo_info(self, name, **options):
            made.append(("info", name, options))

    def snapshot_download(name, **options):
        made.append(("download", name, options))
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return made


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_the_hub_is_asked_before_the_download(calls, tmp_path):
    assert fetch("a/b", repo_type="model", revision="main", allow_patterns=("*.json",)) == tmp_path
    assert calls == [
        ("info", "a/b", {"repo_type": "model", "revision": "main", "timeout": 2}),
        (
            "download",
            "a/b",
            {"repo_type": "model", "revision": "main", "allow_patterns": ["*.json"], "local_files_only": False},
        ),
    ]


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_nothing_is_asked(calls, monkeypatch, by_environment):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_environment)
    fetch("a/b", repo_type="dataset", revision=None, offline_only=not by_environment)
    [(kind, _, options)] = calls
    assert (kind, options["local_files_only"]) == ("download", True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("no route\nto host"), ConnectionError),
        (LocalEntryNotFoundError("nothing\ncached"), FileNotFoundError),
        (HFValidationError("not a\nname"), FileNotFoundError),
    ],
)
def test_every_error_is_an_os_error_of_one_line(calls, monkeypatch, error, expected):
    monkeypatch.setattr(hub, "snapshot_download", raising(error))
    with pytest.raises(expected) as caught:
        fetch("a/b", repo_type="model", revision=None)
    assert str(caught.value) == f"{type(error).__name__}: {' '.join(str(error).split())}"


def test_an_error_of_the_disk_stays_what_it_is(calls, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", raising(PermissionError(13, "denied", "/cache")))
    with pytest.raises(PermissionError, match="/cache"):
        fetch("a/b", repo_type="model", revision=None)


def test_the_client_logs_nothing(calls, caplog):
    fetch("a/b", repo_type="model", revision=None)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("huggingface_hub.file_download").warning("retrying")
    assert not caplog.records


def test_a_name_that_cannot_be_one_is_refused_without_a_request():
    with pytest.raises(FileNotFoundError, match="HFValidationError"):
        fetch("a/b/c", repo_type="model", revision=None)
