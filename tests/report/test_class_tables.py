from __future__ import annotations

from rmrkd_cli.report import class_tables

CLASSES = ["sky", "road", "never"]
RECORD = {
    "protocol": {"classes": CLASSES},
    "metrics": {
        "iou": [0.5, 2 / 3, None], "accuracy": [0.625, 0.75, None], "dice": [0.6667, 0.8, None],
        "miou": 0.5833, "macc": 0.6875, "mdice": 0.7334, "aacc": 0.7,
    },
    "matrix": [[995, 4, 1], [50, 150, 0], [0, 0, 0]],
}  # fmt: skip


def test_each_class_has_three_metrics_and_the_mean_of_each() -> None:
    columns, rows = class_tables.metrics_table(RECORD)
    assert columns == ["class", "IoU", "Acc", "Dice"]
    assert rows == [
        ["sky", "50.00", "62.50", "66.67"],
        ["road", "66.67", "75.00", "80.00"],
        ["never", "–", "–", "–"],
        ["mean", "58.33", "68.75", "73.34"],
    ]


def test_boundary_iou_is_a_column_where_it_was_measured() -> None:
    boundary = {"width": 0.02, "miou": 0.35, "iou": [0.3, 0.4, None], "counts": []}
    columns, rows = class_tables.metrics_table({**RECORD, "boundary": boundary})
    assert columns == ["class", "IoU", "Acc", "Dice", "Boundary IoU"]
    assert [row[-1] for row in rows] == ["30.00", "40.00", "–", "35.00"]


def test_an_older_result_has_no_mean_dice() -> None:
    metrics = {key: value for key, value in RECORD["metrics"].items() if key != "mdice"}  # type: ignore[union-attr]
    assert class_tables.metrics_table({**RECORD, "metrics": metrics})[1][-1][-1] == "–"


def test_rows_of_the_confusion_matrix_are_percent() -> None:
    columns, rows = class_tables.confusion_table(RECORD, 80)
    assert columns[1].split() == ["0", "1", "2"]
    assert [(name, *cells.split()) for name, cells in rows] == [
        ("0 sky", "100", ".", "."), ("1 road", "25", "75", "0"), ("2 never", "–", "–", "–"),
    ]  # fmt: skip
    assert {len(text) for text in (columns[1], *(cells for _, cells in rows))} == {12}


def test_where_columns_do_not_fit_each_class_names_what_it_is_taken_for() -> None:
    columns, rows = class_tables.confusion_table(RECORD, 20)
    assert columns == ["class", "correct", "most often predicted as"]
    assert rows == [
        ["0 sky", "99.5", "1 road 0.4, 2 never 0.1"],
        ["1 road", "75.0", "0 sky 25.0"],
        ["2 never", "–", "–"],
    ]


def test_the_narrow_form_names_the_three_largest() -> None:
    names = [f"class {number}" for number in range(150)]
    matrix = [[0] * 150 for _ in names]
    matrix[0] = [10, 1, 5, 3, 4, *[0] * 145]
    rows = class_tables.confusion_table({"protocol": {"classes": names}, "matrix": matrix}, 160)[1]
    assert rows[0][2] == "2 class 2 21.7, 4 class 4 17.4, 3 class 3 13.0"
