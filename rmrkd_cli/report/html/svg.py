"""matplotlib figures as SVG that belongs to the page: its text, its fonts and the colours of its scheme."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from rmrkd_cli.report.figures.group_styles import DARK, LIGHT
from rmrkd_cli.report.figures.style import CELL_TEXT, INK, LINE, PAPER, SOFT, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour in the figures, its variable on the page, its value on the light and on the dark page.
COLOURS = (
    (PAPER, "--paper", "#ffffff", "#181b20"), (INK, "--ink", INK, "#e9ebee"), (SOFT, "--soft", SOFT, "#a7aeb8"),
    (LINE, "--line", LINE, "#3b414a"), (CELL_TEXT, "--cell", "#000000", "#ffffff"),
    *((light, f"--g{slot}", light, dark) for slot, (light, dark) in enumerate(zip(LIGHT, DARK, strict=True))),
)  # fmt: skip
_VARIABLES = {colour: f"var({variable})" for colour, variable, _, _ in COLOURS}
_NOT_IN_XML = re.compile("[\ufffe\uffff]")
_FONT = re.compile(r"(?:(bold|\d00) )?([\d.]+)px")  # matplotlib before 3.9 writes one `font`


def inline_svg(figure: Figure, key: str, description: str, *, fixed_width: bool = False) -> Markup:
    """Return a figure as an SVG element. Call inside `figure_style()`, which also drew the figure.

    The page's Content-Security-Policy forbids `style` attributes, so their declarations become attributes.

    Args:
        key: Unique on the page: identifiers inside the SVG are made from it.
        description: The text alternative.
        fixed_width: Keep the figure's own size instead of filling the column.
    """
    stream = io.StringIO()
    with figure_style(svg_fonttype="none", svg_hashsalt=key):
        figure.savefig(
            stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = _NOT_IN_XML.sub("\ufffd", stream.getvalue())
    root = ElementTree.fromstring(text)
    referenced = set(re.findall(r"#([\w-]+)[\")]", text))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = _attributes(element, referenced)
        if element.tag != "text":
            element.text = None
        element.tail = None
    for parent in root.findall("defs"):
        for sheet in parent.findall("style"):
            parent.remove(sheet)
    width = {"width": f"{1.3 * float(root.attrib['viewBox'].split()[2]):.0f}"} if fixed_width else {}
    root.attrib = {
        "class": "chart", "role": "img", "aria-label": description, "viewBox": root.attrib["viewBox"], **width,
    }  # fmt: skip
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # every text in it is escaped


def _attributes(element: ElementTree.Element, referenced: set[str]) -> dict[str, str]:
    attributes = {}
    for name, value in element.attrib.items():
        local = name.rpartition("}")[2]
        if local == "href":
            attributes[local] = "".join(value.split())
        elif local == "style":
            attributes |= _declarations(value)
        elif local != "id" or value in referenced:
            attributes[local] = " ".join(value.split())
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    return {name: _VARIABLES.get(value, value) for name, value in attributes.items()}


def _declarations(style: str) -> dict[str, str]:
    declarations: dict[str, str] = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        font = _FONT.search(value) if name == "font" else None
        if font is not None:
            declarations |= {"font-weight": font[1] or "normal", "font-size": f"{font[2]}px"}
        elif name and name not in ("font", "font-family"):  # the page chooses the font
            declarations[name] = value
    return declarations
