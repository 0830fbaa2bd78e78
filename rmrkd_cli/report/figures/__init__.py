"""The figures of a comparison. matplotlib is imported when the first one is drawn."""

from rmrkd_cli.report.figures.class_bars import draw_classes as draw_classes
from rmrkd_cli.report.figures.confusion import draw_confusion as draw_confusion
from rmrkd_cli.report.figures.curves import draw_curves as draw_curves
from rmrkd_cli.report.figures.image_sheets import draw_sheet as draw_sheet
