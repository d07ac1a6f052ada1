"""Video: frames that hold together, and files of them.

- `Sequence` restyles frames one after the other, along the optical flow (`fastfcs.video.flow`).
- `fastfcs.video.scenes` finds cuts and the frames from which one look per scene is made.
- `fastfcs.video.restyle` does whole files and folders: `source` decodes a file with PyAV, `frames`
  converts its frames to pictures and back, `encoding` and `partial` write the result, and `streams`
  adds audio, subtitles and the rest.
"""

from .flow import Motion, dis_flow
from .sequence import Sequence

__all__ = ["Motion", "Sequence", "dis_flow"]
