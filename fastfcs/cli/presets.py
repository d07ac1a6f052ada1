"""fastfcs presets."""

from __future__ import annotations

from pathlib import Path

import click

from .errors import sentences
from .jobs import plan
from .options import DEVICE, FORCE, PICTURE, device_named

_SIDE = 360  # longer side of a picture on the contact sheet, in pixels
_CAPTION = 20  # height of the line below it
_COLUMNS = 4


@click.command()
@click.argument("content", type=PICTURE, required=False)
@click.option("-o", "--output", help="File for a contact sheet of CONTENT in every style.")
@click.option("--photoreal", is_flag=True, help="Keep the results photographs.")
@DEVICE
@FORCE
def presets(
    content: str | None, output: str | None, photoreal: bool, device: str | None, force: bool
) -> None:
    """List the styles that ship with fastfcs, for stylize --style.

    With CONTENT and -o, also draw CONTENT in each of them.
    """
    from ..presets import shipped, title

    with sentences():
        if (content is None) != (output is None):
            raise ValueError("CONTENT and -o must be given together for a contact sheet")
        if content is not None and output is not None:
            plan([content], output, force)
            _write_sheet(content, output, photoreal, device_named(device), shipped())
    for path in shipped():
        click.echo(f"{path.stem:32}{title(path)}")


def _write_sheet(
    content: str, output: str, photoreal: bool, device: str, styles: list[Path]
) -> None:
    """Write a contact sheet of the content in each style, with its name below."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    from .. import images
    from ..restyling import open_picture
    from ..stylizer import Stylizer

    photo, _ = open_picture(content, _SIDE)
    stylizer = Stylizer(constraint="photoreal" if photoreal else None).to(device)
    width, height = photo.size
    rows = -(-len(styles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width, rows * (height + _CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, style in enumerate(styles):
        x, y = k % _COLUMNS * width, k // _COLUMNS * (height + _CAPTION)
        with torch.inference_mode():
            result = stylizer.set_style(style)(photo).srgb
        sheet.paste(Image.fromarray(images.to_samples(result, 8)), (x, y))
        draw.text((x + 4, y + height + 1), style.stem, "black", font)
    images.write(images.Picture(images.from_samples(np.array(sheet))), output)
