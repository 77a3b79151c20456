"""Files of `torch.save`, verified before they are read.

They are zip archives with a checksum of every member, which `torch.load` does not look at: a flipped bit in a tensor
would become a slightly different model. Left out: compressed archives, which torch never writes.
"""

import re
import stat
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

MAGIC = b"PK\x03\x04"
# one folder, named by who saved it, with the pickle, a file a tensor and what describes them
MEMBER = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)


class ArchiveDamaged(Exception):
    """Not an archive of `torch.save`, or not as it was written."""


def load_archive(path: Path, *, or_legacy: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU, read without running code.

    `or_legacy`: also in the format before torch 1.6, which has no checksums. Raises `OSError` where the file cannot be
    read, `ArchiveDamaged` where a checksum is wrong, and else whatever torch does with a damaged pickle.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(MAGIC)) == MAGIC
        if is_zip or not or_legacy:
            verify(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def verify(file: IO[bytes]) -> None:
    """Raises `ArchiveDamaged` unless every member is one that torch writes, uncompressed, with its checksum right."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size=file.seek(0, 2))
            damaged = archive.testzip()
    except ArchiveDamaged:
        raise
    except Exception as error:  # a damaged directory of a zip file fails in every way there is
        raise ArchiveDamaged(f"not a whole archive: {error}") from error
    if damaged is not None:
        raise ArchiveDamaged(f"the checksum of {damaged} is wrong")


def _check_members(members: list[zipfile.ZipInfo], *, size: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or len({name.split("/")[0] for name in names}) != 1:
        raise ArchiveDamaged("a name stands twice, or not all are in one folder")
    for member in members:
        mode = member.external_attr >> 16
        is_regular = stat.S_IFMT(mode) in (0, stat.S_IFREG) and not member.is_dir()
        is_stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not (MEMBER.fullmatch(member.filename) and is_regular and is_stored):
            raise ArchiveDamaged(f"{member.filename!r} is nothing that torch.save writes")
    if sum(member.file_size for member in members) > size:
        raise ArchiveDamaged("its members are larger than the file")
