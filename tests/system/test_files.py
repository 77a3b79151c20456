import errno
import os
import stat
import subprocess
import sys

import pytest

from bertlens.system.files import atomic_write


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_bytes(b"a longer earlier content")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"a longer earlier content"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("earlier", [b"earlier", None])
def test_an_interrupted_block_leaves_everything_as_it_was(tmp_path, error, earlier):
    path = tmp_path / "metrics.json"
    if earlier is not None:
        path.write_bytes(earlier)

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert (path.read_bytes() if path.exists() else None) == earlier
    assert names(tmp_path) == ([] if earlier is None else ["metrics.json"])


def test_a_move_that_fails_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OSError), atomic_write(path) as file:
        file.write(b"new")
    assert names(tmp_path) == ["taken"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "copy"):
        (tmp_path / "original").read_bytes()
    assert caught.value.filename == str(tmp_path / "original")
    assert names(tmp_path) == []


def test_an_error_without_a_name_gets_the_targets(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(OSError) as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))


def test_folders_on_the_way_are_made(tmp_path):
    path = tmp_path / "runs" / "1" / ("n" * 200 + ".json")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "atomic") as file:
            file.write(b"new")
        (tmp_path / "plain").write_bytes(b"new")
        assert os.umask(umask) == umask  # as it was found
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert modes == dict.fromkeys(("atomic", "plain"), 0o666 & ~umask)


def test_text_is_written_as_utf_8_whatever_the_locale(tmp_path):
    script = (
        "import locale, sys, pathlib; from bertlens.system.files import atomic_write\n"
        "assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')\n"
        "with atomic_write(pathlib.Path(sys.argv[1]), 'w') as file: file.write('d\\xe9j\\xe0 vu \\u6620')"
    )
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "text")], env=ascii_only, check=True)
    assert (tmp_path / "text").read_bytes() == "déjà vu 映".encode()
