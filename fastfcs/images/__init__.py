"""Reading and writing pictures: every rule about files, metadata, colour and bit depth is here.

- **Orientation**: EXIF's is applied to the pixels and reset.
- **Colour**: pixels stay in the encoding of the picture's own ICC profile, which is written back;
  nothing is converted. Two exceptions, both noted: CMYK with a profile becomes sRGB (without one it
  is refused), and a grey profile is dropped, for a restyled picture has colours.
- **Alpha** (also a palette's or a transparent colour's) is kept apart from the pixels and written
  back.
- **Depth**: 8 or 16 bits a channel. Pillow decodes 16-bit RGB but holds only one byte of each
  sample, so such a file is decoded twice, once for each byte; what it cannot write at all (16-bit
  RGB as PNG or TIFF) is put together here.
- **EXIF** camera, author, date, resolution, GPS and exposure tags are kept; thumbnails, XMP and
  IPTC are not.
- JPEG and WebP are written at quality 95, JPEG without chroma subsampling.
- What the output format cannot hold: transparency is refused, 16 bits become 8 with a note
  (`conversion_notes`).
"""

from .convert import fit, fit_picture, from_samples, image_to_tensor, to_samples
from .picture import (
    READABLE,
    SUFFIXES,
    WRITABLE,
    Picture,
    PictureError,
    conversion_notes,
    format_of,
    list_images,
    style_notes,
)
from .read import read
from .write import write

__all__ = [
    "READABLE",
    "SUFFIXES",
    "WRITABLE",
    "Picture",
    "PictureError",
    "conversion_notes",
    "fit",
    "fit_picture",
    "format_of",
    "from_samples",
    "image_to_tensor",
    "list_images",
    "read",
    "style_notes",
    "to_samples",
    "write",
]
