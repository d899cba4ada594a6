"""Archives: what is read from them, and that hostile ones are refused without touching the disk."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from secateur.errors import DataError
from secateur_cli.inputs import archive
from secateur_cli.inputs.archive import is_archive, read_archive

Pack = Callable[[Path, Mapping[str, bytes]], Path]
GOOD = {"set/cat/1.png": b"one", "set/dog/0.jpg": b"two", "set/cat/0.PNG": b"three"}


def pack_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def pack_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return path


FORMATS = [(pack_tar, "a.tar"), (pack_tar, "a.tar.gz"), (pack_tar, "a.tgz"), (pack_zip, "a.zip")]


@pytest.mark.parametrize(("pack", "name"), FORMATS)
def test_reads_images_sorted_with_their_class(tmp_path: Path, pack: Pack, name: str) -> None:
    others = {"README.txt": b"no", "set/cat/.hidden.png": b"no", "__MACOSX/cat/1.png": b"no"}
    path = pack(tmp_path / name, GOOD | others)
    assert is_archive(path)
    assert read_archive(path) == [
        ("cat", "set/cat/0.PNG", b"three"),
        ("cat", "set/cat/1.png", b"one"),
        ("dog", "set/dog/0.jpg", b"two"),
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_are_called_like_images_are_folders(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        info = tarfile.TarInfo("set/cat.png")
        info.type = tarfile.DIRTYPE
        packed.addfile(info)
        packed.addfile(tarfile.TarInfo("set/cat.png/0.png"))
    zipped = pack_zip(tmp_path / "a.zip", {"set/cat.png/": b"", "set/cat.png/0.png": b""})
    for path in (tmp_path / "a.tar", zipped):
        assert read_archive(path) == [("cat.png", "set/cat.png/0.png", b"")]


def test_files_that_lay_on_disk_are_read_from_a_zip(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"one")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "0.png", "cat/0.png")  # with what the system says of it
    assert read_archive(tmp_path / "a.zip") == [("cat", "cat/0.png", b"one")]


def test_of_a_name_that_comes_twice_the_last_counts(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", {"cat/0.png": b"old", "dog/0.png": b"dog"})
    with tarfile.open(path, "a") as packed:
        info = tarfile.TarInfo("./cat/0.png")
        info.size = 3
        packed.addfile(info, io.BytesIO(b"new"))
    assert read_archive(path) == [("cat", "cat/0.png", b"new"), ("dog", "dog/0.png", b"dog")]


@pytest.mark.parametrize(("pack", "name"), [FORMATS[1], FORMATS[3]])
@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../cat/x.png", r"'\.\./cat/x\.png' leads out of the archive"),
        ("set/../../cat/x.png", "leads out of the archive"),
        ("/etc/cat/x.png", "leads out of the archive"),
        ("C:/cat/x.png", "leads out of the archive"),
        ("set/cat\\x.png", "leads out of the archive"),
        ("x.png", r"lies in no class folder; expected CLASS/x\.png"),
        (
            "other/cat/x.png",
            "class folders must lie side by side in one folder; found 'set/cat/1.png' and 'other/cat/x",
        ),
    ],
)
def test_hostile_and_ambiguous_names(tmp_path: Path, pack: Pack, name: str, member: str, message: str) -> None:
    path = pack(tmp_path / name, GOOD | {member: b"x"})
    with pytest.raises(DataError, match=message) as caught:
        read_archive(path)
    assert "is not an archive" not in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as packed:
        link = tarfile.TarInfo("set/cat/link.png")
        link.type, link.linkname = kind, "/etc/passwd"
        packed.addfile(link)
    with pytest.raises(DataError, match=r"'set/cat/link\.png' is a link or a device"):
        read_archive(path)


def test_links_in_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        link = zipfile.ZipInfo("set/cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"'set/cat/link\.png' is a link or a device"):
        read_archive(path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar", "a.zip"])
def test_files_that_are_no_archives(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"nothing of the kind" * 99)
    with pytest.raises(DataError, match="is not an archive that can be read"):
        read_archive(path)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_archives_that_are_damaged_within(tmp_path: Path, kind: str) -> None:
    path, chance = tmp_path / f"a.tar.{kind}", random.Random(0)
    with tarfile.open(path, cast(Any, f"w:{kind}")) as packed:
        for number in range(40):
            info = tarfile.TarInfo(f"cat/{number}.png")
            info.size = 5000
            packed.addfile(info, io.BytesIO(chance.randbytes(info.size)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not an archive that can be read"):
        read_archive(path)


@pytest.mark.parametrize(("pack", "name"), FORMATS)
def test_truncated_archives(tmp_path: Path, pack: Pack, name: str) -> None:
    path = pack(tmp_path / name, {f"set/cat/{i}.png": os.urandom(999) for i in range(9)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="is not an archive that can be read"):
        read_archive(path)


@pytest.mark.parametrize(("pack", "name"), [FORMATS[1], FORMATS[3]])
def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack, name: str) -> None:
    path = pack(tmp_path / name, GOOD)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(DataError, match="unpack it and give the folder instead"):
        read_archive(path)
    monkeypatch.setattr(archive, "MAX_IMAGE_BYTES", 4)
    with pytest.raises(DataError, match=r"'set/cat/0\.PNG' has .* MiB; at most"):
        read_archive(path)


def test_names_in_zip_that_are_not_the_utf_8_that_they_claim_to_be(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a.zip", {"cat/\u00e9.png": b"one"})
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"a\.zip is not an archive that can be read: 'utf-8' codec"):
        read_archive(path)


def with_pax_header(path: Path, **header: str) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=tarfile.PAX_FORMAT) as packed:
        info = tarfile.TarInfo("cat/0.png")
        info.pax_headers = {key.replace("_", "."): value for key, value in header.items()}
        packed.addfile(info)
    return path


def test_numbers_in_tar_that_are_none(tmp_path: Path) -> None:
    path = with_pax_header(tmp_path / "a.tar", GNU_sparse_map="no,number")
    with pytest.raises(DataError, match=r"a\.tar is not an archive that can be read: invalid literal for int"):
        read_archive(path)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_headers_are_bounded_and_images_are_not(tmp_path: Path, name: str) -> None:
    image = bytes(2**20 + 1)
    assert read_archive(pack_tar(tmp_path / name, {"cat/0.png": image})) == [("cat", "cat/0.png", image)]
    small = with_pax_header(tmp_path / name, comment="x" * 2**16)
    assert [image for _, image, _ in read_archive(small)] == ["cat/0.png"]
    large = with_pax_header(tmp_path / f"large.{name}", comment="x" * 2**20)
    with pytest.raises(DataError, match=r"says of the next member more than 1,048,576 bytes"):
        read_archive(large)


@pytest.mark.parametrize("length", [200, 2**21])
def test_long_names_are_bounded(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as packed:
        packed.addfile(tarfile.TarInfo(f"cat/{'x' * length}.png"))
    if length < 2**20:
        assert len(read_archive(path)) == 1
    else:
        with pytest.raises(DataError, match="says of the next member more than"):
            read_archive(path)
