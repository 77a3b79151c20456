"""Archives that `torch.load` would read, and that are damaged or were not written by `torch.save`."""

import copy
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


def rewrite(path: Path, change) -> Path:
    """Write an archive with the members that `change` returns: a list of (name, content, compression)."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name), zipfile.ZIP_STORED) for name in archive.namelist()]
    target = path.with_name("changed.bin")
    with zipfile.ZipFile(target, "w") as archive:
        for name, content, compression in change(members):
            archive.writestr(name, content, compression)
    return target


def test_what_torch_saved_is_read(whole):
    content = load_archive(whole)
    assert torch.equal(content["weight"], torch.arange(50.0))
    assert load_archive(rewrite(whole, lambda members: members))["step"] == 3


def test_a_flipped_bit_that_torch_does_not_notice_is_refused(whole):
    content = bytearray(whole.read_bytes())
    place = content.index(torch.arange(50.0).numpy().tobytes())
    content[place + 100] ^= 1
    whole.write_bytes(content)
    assert not torch.equal(torch.load(whole, weights_only=True)["weight"], torch.arange(50.0))
    with pytest.raises(ArchiveDamaged, match="the checksum of weights/data/0 is wrong"):
        load_archive(whole)


def test_a_member_that_a_flipped_bit_makes_a_directory_is_refused(whole):
    """`torch.load` returns uninitialized memory for it. 0.1.0 did not notice."""
    content = bytearray(whole.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"weights/data/0"))
    content[entry + 38] ^= 0x10  # the lowest byte of the external attributes
    whole.write_bytes(content)
    with pytest.raises(ArchiveDamaged, match="it has a directory"):
        load_archive(whole)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(whole):
    path = rewrite(whole, lambda members: [(name, content, zipfile.ZIP_DEFLATED) for name, content, _ in members])
    assert torch.load(path, weights_only=True)["step"] == 3
    with pytest.raises(ArchiveDamaged, match="it is compressed"):
        load_archive(path)


def test_a_member_that_would_lie_outside_is_never_written(whole):
    outside = whole.parent.parent / "outside"
    path = rewrite(whole, lambda members: [*members, ("weights/../../outside", b"", zipfile.ZIP_STORED)])
    assert load_archive(path)["step"] == 3
    assert not outside.exists()


def test_members_that_share_their_bytes_are_refused(whole):
    """Many members over the same bytes would take hours to check."""
    with zipfile.ZipFile(whole, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for number in range(20):
            copied = copy.copy(largest)
            copied.filename = f"weights/data/{number + 7}"
            archive.filelist.append(copied)
            archive.NameToInfo[copied.filename] = copied
        archive.comment = b"changed"  # so that the directory is written again
    with pytest.raises(ArchiveDamaged, match="larger than the file"):
        load_archive(whole)


def test_the_old_format_is_read_only_where_it_is_expected(tmp_path):
    path = tmp_path / "old.bin"
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_archive(path, or_legacy=True)["weight"], torch.ones(3))
    with pytest.raises(ArchiveDamaged):
        load_archive(path)
