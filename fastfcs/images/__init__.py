"""Reading and writing pictures: every rule about files, metadata, colour and bit depth is here.

- **Orientation**: the EXIF orientation is applied to the pixels and its tag is removed.
- **Colour**: pixels stay in the encoding of the picture's own ICC profile, which is written back;
  nothing is converted. There are two exceptions, both reported: CMYK with a profile becomes sRGB
  (without one, reading raises), and a grey profile is dropped, since a restyled picture has
  colours.
- **Alpha**, which may also come from a palette or a single transparent colour, is kept apart from
  the pixels and written back. Hidden pixels, of alpha 0, keep their colours; networks see them
  filled from visible ones (`fill_hidden`).
- **Depth**: 8 or 16 bits per channel. Pillow decodes 16-bit RGB but keeps only one byte of each
  sample, so such a file is decoded twice, once per byte. Pillow cannot write 16-bit RGB as PNG or
  TIFF at all, so these files are encoded here.
- **EXIF**: the tags for camera, author, date, resolution, GPS and exposure are kept; thumbnails,
  XMP and IPTC are not.
- **Quality**: JPEG and WebP are written at quality 95, JPEG without chroma subsampling.
- **Limits of the output format**: writing transparency to a format without alpha raises; 16 bits
  become 8, which `conversion_notes` reports.
"""

from .convert import (
    AnyImage,
    ImageBatch,
    fit,
    fit_picture,
    from_samples,
    image_to_tensor,
    to_samples,
)
from .fill import fill_hidden
from .picture import (
    READABLE,
    SUFFIXES,
    WRITABLE,
    Picture,
    PictureError,
    conversion_notes,
    format_of,
)
from .read import list_images, read
from .write import write

__all__ = [
    "READABLE",
    "SUFFIXES",
    "WRITABLE",
    "AnyImage",
    "ImageBatch",
    "Picture",
    "PictureError",
    "conversion_notes",
    "fill_hidden",
    "fit",
    "fit_picture",
    "format_of",
    "from_samples",
    "image_to_tensor",
    "list_images",
    "read",
    "to_samples",
    "write",
]
