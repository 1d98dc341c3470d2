"""What must be known of a JPEG before it is decoded."""

from __future__ import annotations

import re

# A marker of its own, and no byte of a scan (ITU-T T.81 §B.1.1.2): those are followed by 00 or are restarts.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END = 0xDA, 0xD9


def scans(data: bytes, most: int) -> int:
    """Scans of the first image in `data`, counted up to `most` + 1.

    Decoding goes over the whole image for each. What lies inside segments (previews) or after the image's end
    (a phone's short films) is not looked at.
    """
    count, place = 0, 2
    while count <= most and (found := _MARKER.search(data, place)) is not None:
        marker = data[found.end() - 1]
        if marker == _END:
            break
        count += marker == _START_OF_SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return count
