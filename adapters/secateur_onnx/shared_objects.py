"""Which libraries a shared object asks the loader for: the NEEDED entries of an ELF file, read without loading it.

The loader stops at the first library that it cannot find; the list names all of them. Layout: [ELF]_, chapters 4 and 5.

.. [ELF] Tool Interface Standard: Executable and Linking Format, version 1.2, and its 64-bit form in the System V ABI.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
LOAD, DYNAMIC = 1, 2
NEEDED, STRINGS = 1, 5


def needed_libraries(path: str | Path) -> tuple[str, ...]:
    """Return the names of the libraries that a shared object needs, such as 'libcurand.so.10', in its order.

    Empty for files that are no 64-bit little-endian ELF files, as those of Windows and macOS, and for damaged ones.

    Raises:
        OSError: the file cannot be read.

    Cost: reads a few pages of the file.

    Example:
        >>> needed_libraries(__file__)
        ()
    """
    with Path(path).open("rb") as file:
        if file.read(len(MAGIC_64_LITTLE)) != MAGIC_64_LITTLE:
            return ()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _needed(data)
            except (struct.error, ValueError, UnicodeDecodeError):  # truncated: tables that point past the end
                return ()


def _needed(data: mmap.mmap) -> tuple[str, ...]:
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    segments = []  # kind, offset in the file, address in memory, bytes in the file
    for idx in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, table + idx * size)
        segments.append((kind, offset, address, length))
    entries = []
    for kind, offset, _, length in segments:
        if kind == DYNAMIC:
            entries = [struct.unpack_from("<qQ", data, at) for at in range(offset, offset + length, 16)]
    strings = next(value for tag, value in entries if tag == STRINGS) if entries else 0
    start = next(
        (strings - address + offset for kind, offset, address, length in segments
         if kind == LOAD and address <= strings < address + length), 0,
    )  # fmt: skip
    return tuple(_text(data, start + value) for tag, value in entries if tag == NEEDED)


def _text(data: mmap.mmap, start: int) -> str:
    end = data.find(b"\0", start)
    if end < 0:
        raise ValueError("a name that does not end")
    return data[start:end].decode()
