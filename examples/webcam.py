"""A camera's picture, painted while you look: q ends it.

python examples/webcam.py STYLE [WIDTH]

Needs a camera, and OpenCV with windows: pip install opencv-python, which takes the place of the
opencv-python-headless of fastfcs[video]. A smaller WIDTH, 320 by default, is faster.
"""

import sys

import cv2
import torch
from PIL import Image

from fastfcs import Stylizer
from fastfcs.video import Sequence


def main(style: str, width: str = "320") -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stylizer = Stylizer(Image.open(style), weights="tiny").to(device)
    sequence = Sequence(stylizer)
    camera = cv2.VideoCapture(0)
    while cv2.waitKey(1) != ord("q"):
        found, frame = camera.read()  # (H, W, 3), uint8, BGR
        if not found:
            sys.exit("no camera, or no picture from it")
        size = int(width), round(int(width) * frame.shape[0] / frame.shape[1])
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        painting = sequence(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        cv2.imshow("fastfcs", cv2.cvtColor(painting, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 1 else sys.exit(__doc__)
