"""Photorealistic transfer region by region: sky to sky, wall to wall (Luan et al. 2017).

python examples/regions.py PHOTO PHOTO_MASK REFERENCE REFERENCE_MASK OUT

The masks are pictures of flat colours; docs/controls.md lists the colours. Regions of the photo
whose colour is missing in the reference's mask are not restyled.
"""

import sys

from PIL import Image

from fastfcs import Stylizer, read_regions


def main(photo: str, photo_mask: str, reference: str, reference_mask: str, out: str) -> None:
    regions = read_regions(photo_mask, reference_mask)
    print("regions:", ", ".join(regions.colours))
    stylizer = Stylizer(constraint="photoreal")
    stylizer.set_style(Image.open(reference), regions=regions.style)  # one style per region
    stylizer(Image.open(photo), regions.content).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) >= 6 else sys.exit(__doc__)
