"""Files that visitors of a page should not upload, but do."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def hostile_files(folder: Path) -> list[Path]:
    """Write twenty of them, none a picture that can be restyled."""
    rng = np.random.default_rng(0)
    good = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))

    def encoded(format: str, image: Image.Image = good, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    png, jpeg, tiff = encoded("PNG"), encoded("JPEG"), encoded("TIFF")
    frames = [good, good.rotate(90, expand=True)]
    files = {
        "empty.jpg": b"",
        "text.png": b"not a picture",
        "page.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "script.html": b"<script>alert(1)</script>",
        "program.exe": b"MZ" + bytes(200),
        "archive.jpg": b"PK\x03\x04" + bytes(200),
        "document.pdf": b"%PDF-1.7\n%%EOF",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "cut.tif": tiff[: len(tiff) // 2],
        "header.png": png[:33],
        "flipped.png": png[:60] + bytes(255 - b for b in png[60:200]) + png[200:],
        "bomb.png": png_of_size(60_000, 60_000),
        "wide.png": png_of_size(200_000, 1_000),
        "dot.png": encoded("PNG", Image.new("RGB", (1, 1))),
        "strip.png": encoded("PNG", Image.new("RGB", (3000, 4))),
        "moving.gif": encoded("GIF", frames[0], save_all=True, append_images=frames[1:]),
        "pages.tif": encoded("TIFF", frames[0], save_all=True, append_images=frames[1:]),
        "floats.tif": encoded("TIFF", Image.fromarray(np.ones((48, 64), np.float32))),
        "<img src=x onerror=alert(1)>.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims to be as large as that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data
