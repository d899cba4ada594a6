"""Images in a tar or zip archive, read into memory; nothing is ever unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Self

from secateur.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
BROKEN: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,  # of malformed numbers in a tar, and of names in a zip that are not the UTF-8 that they are said to be
)
with suppress(ImportError):  # a Python that is built without it reads no .xz
    import lzma

    BROKEN += (lzma.LZMAError,)
READ_WHOLE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_HEADER_BYTES = 2**20
MAX_IMAGE_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 8 * 2**30


def is_archive(path: Path) -> bool:
    """Tell by its name whether a path is an archive that `read_archive` reads.

    Example:
        >>> is_archive(Path("images/train.tar.gz")), is_archive(Path("images/train"))
        (True, False)
    """
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def is_hidden(place: PurePath) -> bool:
    """Tell whether a place among images is hidden, or in what is: `._1.jpg`, or a folder `.ipynb_checkpoints`.

    Example:
        >>> is_hidden(PurePath("cat/.ipynb_checkpoints/1.jpg")), is_hidden(PurePath("cat/1.jpg"))
        (True, False)
    """
    return any(part.startswith((".", "__MACOSX")) for part in place.parts)


def read_archive(path: Path) -> list[tuple[str, str, bytes]]:
    """Return `(class, name, encoded image)` for each image of an archive, sorted by name.

    The class is the folder that holds the image. All class folders must lie in one folder, so that an archive with
    both training and test images is not taken for one set. Files that are not images by their ending, and hidden
    ones, are left out. Of several images of one name, as in a tar that was added to, the last counts.

    Raises:
        DataError: the archive is broken or not one, an image's name is absolute or leads out of the archive, an image
            is a link or lies in no class folder, class folders lie in different folders, or an image (64 MiB), all
            of them (8 GiB) or what a tar says of one (1 MiB) are too large for memory.
    """
    images: dict[str, tuple[str, str, bytes]] = {}
    parents: dict[str, str] = {}
    total = 0
    read = _read_zip if path.name.lower().endswith(".zip") else _read_tar
    try:
        for name, data in read(path):
            place = PurePosixPath(name)
            total += len(data)
            if total > MAX_ARCHIVE_BYTES:
                limit = f"{MAX_ARCHIVE_BYTES / 2**30:.0f} GiB"
                raise DataError(f"{path} holds more than {limit} of images; unpack it and give the folder instead")
            if len(place.parts) < 2:
                raise DataError(f"{path}: image {name!r} lies in no class folder; expected CLASS/{place.name}")
            parents.setdefault(place.parent.parent.as_posix(), name)
            images[place.as_posix()] = place.parent.name, place.as_posix(), data
    except DataError:  # a ValueError too
        raise
    except BROKEN as error:
        raise DataError(f"{path} is not an archive that can be read: {error or type(error).__name__}") from error
    if len(parents) > 1:
        examples = " and ".join(repr(name) for name in list(parents.values())[:2])
        raise DataError(f"{path}: class folders must lie side by side in one folder; found {examples}")
    return [images[name] for name in sorted(images)]


class _Header(tarfile.TarInfo):
    """A header of a tar; one that says more of the next member is read whole, and refused where that is large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size > MAX_HEADER_BYTES and header.type in READ_WHOLE:
            raise tarfile.ReadError(f"{header.name!r} says of the next member more than {MAX_HEADER_BYTES:,} bytes")
        return header


def _read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*", tarinfo=_Header) as archive:
        for member in archive:
            if not _is_wanted(path, member.name, size=member.size) or member.isdir():
                continue
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is None:
                raise DataError(f"{path}: {member.name!r} is a link or a device; images must be plain files")
            yield member.name, stream.read()


def _read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not _is_wanted(path, member.filename, size=member.file_size):  # the name of a folder ends in a slash
                continue
            kind = (member.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000):
                raise DataError(f"{path}: {member.filename!r} is a link or a device; images must be plain files")
            yield member.filename, archive.read(member)


def _is_wanted(path: Path, name: str, *, size: int) -> bool:
    place = PurePosixPath(name)
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return False
    if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in place.parts[0]:
        raise DataError(f"{path}: the name {name!r} leads out of the archive; it is not read")
    if is_hidden(place):
        return False
    if size > MAX_IMAGE_BYTES:
        raise DataError(f"{path}: {name!r} has {size / 2**20:.0f} MiB; at most {MAX_IMAGE_BYTES // 2**20} MiB are read")
    return True
