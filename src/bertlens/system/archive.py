"""Verify files of `torch.save` before they are read.

They are zip archives with a checksum of every member, which `torch.load` does not check, so a flipped bit in a tensor
would give a slightly different model. Left out: the names of the members, because torch extracts no files.
"""

import zipfile
from pathlib import Path
from typing import IO, Any

import torch

MAGIC = b"PK\x03\x04"
DIRECTORY = 0x10  # the attribute of a directory in a zip file


class ArchiveDamaged(Exception):
    """The file is not an archive of `torch.save`, or has changed since it was written."""


def load_archive(path: Path, *, or_legacy: bool = False) -> Any:
    """Read what `torch.save` wrote, on the CPU, without running code from the file.

    or_legacy: also read the format before torch 1.6, which has no checksums. Raises `OSError` if the file cannot be
    read, `ArchiveDamaged` if a checksum is wrong, and whatever torch raises for a damaged pickle.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(MAGIC)) == MAGIC
        if is_zip or not or_legacy:
            verify(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def verify(file: IO[bytes]) -> None:
    """Raise `ArchiveDamaged` unless every member is stored uncompressed and has the right checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ArchiveDamaged("it is compressed, which torch.save never does")
            if any(member.is_dir() or member.external_attr & DIRECTORY for member in members):
                raise ArchiveDamaged("it has a directory, for which torch.load would return uninitialized memory")
            if sum(member.file_size for member in members) > file.seek(0, 2):
                raise ArchiveDamaged("its members together are larger than the file")
            damaged = archive.testzip()
    except ArchiveDamaged:
        raise
    except Exception as error:  # a zip file with a damaged directory can raise anything
        raise ArchiveDamaged(f"not a complete archive: {error}") from error
    if damaged is not None:
        raise ArchiveDamaged(f"the checksum of {damaged} is wrong")
