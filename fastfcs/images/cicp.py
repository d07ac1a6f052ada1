"""Colours that a file describes by code points (ITU-T H.273) instead of an ICC profile."""

from __future__ import annotations

import struct

# Primaries as XYZ relative to D50, one row each, in the units of the ICC's files. Those of BT.601
# are nearly those of sRGB.
_SRGB = (28576, 14581, 912), (25239, 46983, 6361), (9375, 3972, 46787)
_PRIMARIES = {
    **dict.fromkeys((1, 2, 5, 6, 7), ("sRGB", _SRGB)),
    9: ("BT.2020", ((44137, 18287, -127), (10857, 44259, 1965), (8195, 2989, 52223))),
    12: ("Display P3", ((33759, 15807, -69), (19135, 45367, 2745), (10296, 4363, 51385))),
}
_SRGB_CURVE = 3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
# Viewers show pictures with a camera's curve (1, 6, 14, 15) like those with that of sRGB.
_CURVES: dict[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _SRGB_CURVE),
    4: (0, 2.2),
    5: (0, 2.8),
    8: (0, 1),
}
_HDR = {16: "PQ", 18: "HLG"}
_D50 = 63190, 65536, 54061


def profile(primaries: int, transfer: int) -> tuple[bytes | None, list[str]]:
    """Make the ICC profile of colours that code points describe.

    Args:
        primaries: code point of the primaries, such as 1 (sRGB), 9 (BT.2020) or 12 (Display P3).
        transfer: code point of the transfer characteristics, such as 13 (sRGB) or 16 (PQ).

    Returns:
        The profile, or None for sRGB, and clauses on what is taken as sRGB though it is not.

    Examples:
        >>> from fastfcs.images.cicp import profile
        >>> profile(1, 13)
        (None, [])
        >>> len(profile(12, 13)[0]), profile(12, 16)[1]
        (436, ['HDR curve (PQ) taken as that of sRGB, so its brightness is wrong'])
    """
    notes = []
    name, columns = _PRIMARIES.get(primaries, _PRIMARIES[1])
    curve = _CURVES.get(transfer, _SRGB_CURVE)
    if primaries not in _PRIMARIES:
        notes.append(f"colour primaries {primaries} of ITU-T H.273 taken as those of sRGB")
    if transfer not in _CURVES:
        kind = f"HDR curve ({_HDR[transfer]})" if transfer in _HDR else f"curve {transfer}"
        notes.append(f"{kind} taken as that of sRGB, so its brightness is wrong")
    if (columns, curve) == (_SRGB, _SRGB_CURVE):
        return None, notes
    tags = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    for channel, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags[channel + b"XYZ"] = _xyz(column)
    form, *numbers = curve
    fixed = (round(65536 * number) for number in numbers)
    trc = struct.pack(f">4s4xH2x{len(numbers)}i", b"para", int(form), *fixed)
    return _packed(tags, trc), notes


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", len(encoded), 28) + encoded


def _xyz(values: tuple[int, ...]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *values)


def _packed(tags: dict[bytes, bytes], curve: bytes) -> bytes:
    """A display profile of version 4 (ICC.1:2022, 7) whose three channels share a curve."""
    count = len(tags) + 3
    position = 128 + 4 + 12 * count
    table, body = struct.pack(">I", count), b""
    for tag, content in (*tags.items(), (b"rTRC", curve)):
        table += struct.pack(">4sII", tag, position + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    shared = table[-8:]
    table += b"gTRC" + shared + b"bTRC" + shared
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4xI4s4s4s", size, 0x04400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", *_D50) + bytes(48)
    return header + table + body
