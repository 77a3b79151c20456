"""Archives that torch.load would take and that torch.save never wrote."""

import stat
import zipfile
from pathlib import Path

import pytest
import torch

from bertlens.system.archive import ArchiveDamaged, load_archive


@pytest.fixture
def whole(tmp_path) -> Path:
    path = tmp_path / "weights.bin"
    torch.save({"weight": torch.arange(50.0), "step": 3}, path)
    return path


def rewritten(path: Path, change) -> Path:
    """The same members, each as `change` makes it: a list of (name or ZipInfo, content, compression)."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name), zipfile.ZIP_STORED) for name in archive.namelist()]
    target = path.with_name("changed.bin")
    with zipfile.ZipFile(target, "w") as archive:
        for name, content, compression in change(members):
            archive.writestr(name, content, compression)
    return target


def linked(members):
    link = zipfile.ZipInfo("weights/data/1")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return [*members, (link, b"/etc/passwd", zipfile.ZIP_STORED)]


def test_what_torch_saved_is_read(whole):
    content = load_archive(whole)
    assert torch.equal(content["weight"], torch.arange(50.0))
    assert load_archive(rewritten(whole, lambda members: members))["step"] == 3


def test_a_bit_that_torch_would_not_miss_is_noticed(whole):
    content = bytearray(whole.read_bytes())
    place = content.index(torch.arange(50.0).numpy().tobytes())
    content[place + 100] ^= 1
    whole.write_bytes(content)
    assert not torch.equal(torch.load(whole, weights_only=True)["weight"], torch.arange(50.0))
    with pytest.raises(ArchiveDamaged, match="the checksum of weights/data/0 is wrong"):
        load_archive(whole)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: [(n, c, zipfile.ZIP_DEFLATED) for n, c, _ in members], "nothing that torch.save writes"),
        (lambda members: [*members, ("weights/code/__init__.py", b"", 0)], "nothing that torch.save writes"),
        (lambda members: [*members, ("weights/../../outside", b"", 0)], "nothing that torch.save writes"),
        (lambda members: [*members, ("weights/data/7/", b"", 0)], "nothing that torch.save writes"),
        (lambda members: [*members, members[0]], "stands twice"),
        (lambda members: [*members, ("other/version", b"3", 0)], "not all are in one folder"),
        (linked, "nothing that torch.save writes"),
    ],
    ids=["compressed", "code", "outside", "folder", "twice", "two folders", "link"],
)
def test_members_that_torch_never_writes_are_refused(whole, change, words):
    with pytest.raises(ArchiveDamaged, match=words):
        load_archive(rewritten(whole, change))


def test_the_old_format_is_read_only_where_it_is_expected(tmp_path):
    path = tmp_path / "old.bin"
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_archive(path, or_legacy=True)["weight"], torch.ones(3))
    with pytest.raises(ArchiveDamaged):
        load_archive(path)
