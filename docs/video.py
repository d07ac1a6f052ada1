"""The figure of docs/video.md: a clip painted frame by frame, and held to the frame before.

python docs/video.py         writes docs/video.jpg, in two minutes on a CPU
"""

import sys
from pathlib import Path

import numpy as np
import torch
from pictures import grid, photo
from PIL import Image

from fastfcs import Stylizer
from fastfcs.video import Sequence

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from clips import make_clip

FIGURE = Path(__file__).with_name("video.jpg")
COUNT, SIZE, ROW = 41, (270, 480), 170  # frames, pixels, and the row that is shown over time


def image(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(photo(name, 800))).movedim(-1, 0) / 255


if __name__ == "__main__":
    clip = make_clip(image("china"), "pan", COUNT, SIZE, moving=image("chelsea"))
    stylizer = Stylizer("the-scream")
    sequence = Sequence(stylizer)
    with torch.inference_mode():
        videos = {
            "source": clip.frames,
            "frame by frame": [stylizer(frame) for frame in clip.frames],
            "fastfcs video": [sequence(frame) for frame in clip.frames],
        }
    rows = []
    for name, frames in videos.items():
        rows.append([(f"{name}, {k}", Image.fromarray(frames[k])) for k in range(0, COUNT, 10)])
    over_time = []
    for name, frames in videos.items():
        row = np.stack([frame[ROW] for frame in frames])
        over_time.append((f"{name}, one row over time", Image.fromarray(row.repeat(3, 0))))
    frames_part = grid(rows, (240, 135))
    height = round(frames_part.width / 3 * 3 * COUNT / SIZE[1])
    time_part = grid([over_time], (frames_part.width // 3 - 4, height))
    sheet = Image.new(
        "RGB", (frames_part.width, frames_part.height + time_part.height + 8), "white"
    )
    sheet.paste(frames_part)
    sheet.paste(time_part, (0, frames_part.height + 8))
    sheet.save(FIGURE, quality=75, optimize=True, progressive=True)
