"""A page to try fastfcs on: `fastfcs app` opens it, and `build` makes it for a page of one's own.

Everything is computed and kept where the page is served, and nothing is asked of the network. Each
visitor has their own pictures and results, which are removed ten minutes after they leave. The
page is made with Gradio, which the extra ``app`` installs.
"""

from .page import build
from .uploads import MAX_BYTES, MAX_PIXELS

__all__ = ["MAX_BYTES", "MAX_PIXELS", "build"]
