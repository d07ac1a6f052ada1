"""fastfcs presets."""

from __future__ import annotations

from pathlib import Path

import click

from .errors import sentences
from .jobs import plan
from .options import DEVICE, device_named

_SIDE = 360  # of a cell of the contact sheet, pixels
_COLUMNS = 4


@click.command()
@click.argument("content", required=False)
@click.option("-o", "--output", help="Contact sheet: CONTENT in every style; a file.")
@click.option("--photoreal", is_flag=True, help="Keep the results photographs.")
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def presets(
    content: str | None, output: str | None, photoreal: bool, device: str | None, force: bool
) -> None:
    """List the styles that ship, for stylize --style; with CONTENT and -o also show them."""
    from ..presets import shipped, title

    for path in shipped():
        click.echo(f"{path.stem:32}{title(path)}")
    if content is None and output is None:
        return
    with sentences():
        if content is None or output is None:
            raise ValueError("a contact sheet takes both a CONTENT and -o OUTPUT")
        plan([content], output, force)
        _write_sheet(content, output, photoreal, device_named(device), shipped())


def _write_sheet(
    content: str, output: str, photoreal: bool, device: str, styles: list[Path]
) -> None:
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    from .. import images
    from ..stylizer import Stylizer

    photo = images.fit_picture(images.read(content), _SIDE)
    stylizer = Stylizer(constraint="photoreal" if photoreal else None).to(device)
    width, height = photo.size
    line = 20
    rows = -(-len(styles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width, rows * (height + line)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, style in enumerate(styles):
        x, y = k % _COLUMNS * width, k // _COLUMNS * (height + line)
        with torch.inference_mode():
            result = stylizer.set_style(style)(photo.pixels)
        sheet.paste(Image.fromarray(images.to_samples(result, 8)), (x, y))
        draw.text((x + 4, y + height + 1), style.stem, "black", font)
    images.write(images.Picture(images.from_samples(np.array(sheet))), output)
