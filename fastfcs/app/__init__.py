"""A page to try fastfcs on: `fastfcs app` opens it, and `build` makes it for a page of one's own.

Everything is computed and kept where the page is served, and it asks nothing of the network. Each
visitor has pictures and results of his own, which are removed ten minutes after he leaves. The
extra ``app`` installs Gradio, of which the page is made.
"""

from .page import build
from .uploads import MAX_BYTES, MAX_PIXELS

__all__ = ["MAX_BYTES", "MAX_PIXELS", "build"]
