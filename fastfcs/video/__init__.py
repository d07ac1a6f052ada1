"""Video: frames that hold together, and files of them.

- `Sequence` restyles frames one after the other, along the optical flow (`fastfcs.video.flow`).
- `fastfcs.video.scenes` finds cuts and the frames from which one look per scene is made.
- `fastfcs.video.file` reads and writes video files with PyAV, `fastfcs.video.folder` folders of
  numbered pictures.
"""

from .flow import Motion, dis_flow
from .sequence import Sequence

__all__ = ["Motion", "Sequence", "dis_flow"]
