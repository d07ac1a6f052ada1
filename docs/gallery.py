"""The picture at the top of the README: package photographs, restyled by the shipped weights.

python docs/gallery.py            writes docs/gallery.jpg, in a few minutes on a CPU

Upper rows: presets, refined. Lower rows: the same network with --photoreal, each result with its
reference in the corner.
"""

from pathlib import Path

from pictures import Row, grid, photo
from PIL import Image, ImageOps

from fastfcs import Stylizer

SIZE, INSET, BORDER = (400, 267), (0.3, 0.3), 4
PRESETS = {
    "composition-vii": "Kandinsky, Composition VII",
    "great-wave": "Hokusai, The Great Wave",
    "starry-night": "Van Gogh, The Starry Night",
    "the-scream": "Munch, The Scream",
    "udnie": "Picabia, Udnie",
    "woman-with-a-hat": "Matisse, Woman with a Hat",
}
PAINTINGS = {
    "china": ("composition-vii", "the-scream", "starry-night"),
    "chelsea": ("composition-vii", "great-wave", "udnie"),
    "flower": ("woman-with-a-hat", "starry-night", "the-scream"),
}
PHOTOGRAPHS = {
    "china": ("coffee", "rocket", "astronaut"),
    "flower": ("china", "coffee", "rocket"),
    "motorcycle": ("flower", "rocket", "coffee"),
}


def painted(name: str, presets: tuple[str, ...]) -> Row:
    """A photograph, and paintings of it in several presets."""
    content = photo(name)
    results = [(PRESETS[p], Stylizer(p, refine=True)(content)) for p in presets]
    return [("photograph", content), *results]


def photographed(name: str, references: tuple[str, ...]) -> Row:
    """A photograph, and the same in the style of other photographs."""
    content = photo(name)
    row = [("photograph", content)]
    for reference in references:
        style = photo(reference)
        result = Stylizer(style, constraint="photoreal")(content)
        row.append(("photoreal, after the inset", with_inset(result, style)))
    return row


def with_inset(image: Image.Image, inset: Image.Image) -> Image.Image:
    """The image as it will be cropped, with another one in its lower left corner."""
    sheet = ImageOps.fit(image, SIZE, Image.Resampling.LANCZOS)
    small = ImageOps.contain(inset, [round(k * side) for k, side in zip(INSET, SIZE, strict=True)])
    small = ImageOps.expand(small, BORDER, "white")
    sheet.paste(small, (0, sheet.height - small.height))
    return sheet


def main() -> None:
    """Write docs/gallery.jpg."""
    rows = [painted(*row) for row in PAINTINGS.items()]
    rows += [photographed(*row) for row in PHOTOGRAPHS.items()]
    grid(rows, SIZE).save(Path(__file__).with_name("gallery.jpg"), quality=88)


if __name__ == "__main__":
    main()
