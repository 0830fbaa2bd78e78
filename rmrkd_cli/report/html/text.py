"""Labels on the page. Everything else is escaped by the templates."""

from __future__ import annotations

from markupsafe import Markup

from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import shorten

_MAX_LENGTH = 60  # characters
_MAX_TITLE_LENGTH = 2000


def label_html(text: object) -> Markup:
    """Return a label whose writing direction does not affect the text around it; a long one in full as its title.

    Markup is returned as it is.
    """
    if isinstance(text, Markup):
        return text
    line = escape_control(text)
    title = Markup(' title="{}"').format(line[:_MAX_TITLE_LENGTH]) if len(line) > _MAX_LENGTH else ""
    return Markup("<bdi{}>{}</bdi>").format(title, shorten(line, _MAX_LENGTH))
