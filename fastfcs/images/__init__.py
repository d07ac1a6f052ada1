"""Reading and writing pictures: every rule about files, metadata, colour and bit depth is here.

- **Formats**: Pillow reads JPEG (also a phone's MPO, of which the first picture counts), PNG, TIFF,
  WebP, AVIF, GIF, BMP and JPEG 2000. The extra ``camera`` adds HEIC (its primary picture), JPEG XL
  and cameras' raw files; where its package is missing, one sentence names it. All but GIF, BMP,
  JPEG 2000 and raw files are written, too.
- **Orientation**: the EXIF orientation, or that of the XMP in a file without, is applied to the
  pixels; the EXIF tag is removed and that of the XMP becomes 1. In HEIC, AVIF and JPEG XL the
  format's own field counts instead, as their standards demand.
- **Colour**: pixels stay in the encoding of the picture's own ICC profile, which is written back.
  Content and style meet in sRGB, in which the network works (`image_to_tensor`, `Picture.srgb`);
  the result returns to the content's profile together with the colours that sRGB cannot hold.
  Profiles of a matrix and curves are evaluated in floating point, those with tables by LittleCMS
  with 8 bits per channel; a profile that cannot be evaluated is reported and its colours are taken
  as sRGB. CMYK with a profile (without one, reading raises) and grey with a profile become sRGB,
  which is reported. Code points in HEIC and AVIF (ITU-T H.273: Display P3, BT.2020) become a
  profile; the HDR curves PQ and HLG are taken as that of sRGB, which is reported.
- **Alpha**, which may also come from a palette or a single transparent colour, is kept apart from
  the pixels and written back. Hidden pixels, of alpha 0, keep their colours; networks see them
  filled from visible ones (`fill_hidden`).
- **Depth**: 8 or 16 bits per channel; 10 and 12 bits of HEIC and JPEG XL become 16. Pillow decodes
  16-bit RGB but keeps only one byte of each sample, so such a file is decoded twice, once per byte.
  Pillow cannot write 16-bit RGB as PNG or TIFF at all, so these files are encoded here. Of JPEG
  2000 and AVIF with more than 8 bits, Pillow decodes 8, except for grey JPEG 2000, which is
  reported.
- **Raw files** are developed by LibRaw in the camera's white balance, to sRGB with its curve and 16
  bits, without automatic brightening: that comes nearest to cameras' own JPEGs, if with less
  contrast. The thumbnail in them is never taken for the picture.
- **Refused**, in one sentence: samples of 32 bits or floating point, animations other than those in
  JPEG XL, of which pyjpegxl decodes one frame, and pictures of more than 180 megapixels.
- **EXIF**: the tags for camera, title, author, date, rating, GPS and exposure are kept byte for
  byte, whatever their encoding. Tags that describe the old file or refer to it (size, thumbnail,
  the camera's own notes, areas in pixels) are not. Unreadable tags are dropped and reported. Those
  of raw files are read if these are TIFFs (DNG, CR2, NEF, ARW, ORF, RW2 ...), CR3, or contain a
  JPEG with EXIF (RAF).
- **Resolution**: pixels per inch are kept between all formats, in each format's own field and in
  EXIF; none are made up. Where the two disagree beyond rounding, the format's own field counts.
- **XMP** is kept in every format, **IPTC** in JPEG and TIFF, which alone have a place for it.
  Thumbnails, depth maps and gain maps are dropped, since they would show the old picture.
- **Quality**: each encoder is set such that luma is as close to the picture as in JPEG at quality
  95: WebP and JPEG XL to 95, AVIF to 90, HEIC to 65. JPEG and AVIF are written without chroma
  subsampling, HEIC with, as many programs read nothing else, and with 10 bits if there are 16.
- **Limits of the output format**: writing transparency to a format without alpha raises; 16 bits
  become 8, and metadata are reduced to what the format holds (64 KB each in JPEG), which
  `conversion_notes` reports.
"""

from .convert import (
    AnyImage,
    ImageBatch,
    fit,
    fit_picture,
    fitted,
    image_to_tensor,
    least_side,
)
from .fill import fill_hidden
from .picture import (
    RAW_SUFFIXES,
    READABLE,
    SUFFIXES,
    WRITABLE,
    Picture,
    PictureError,
    conversion_notes,
    format_of,
)
from .read import list_images, read
from .samples import from_samples, to_samples
from .write import write

__all__ = [
    "RAW_SUFFIXES",
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
    "fitted",
    "format_of",
    "from_samples",
    "image_to_tensor",
    "least_side",
    "list_images",
    "read",
    "to_samples",
    "write",
]
