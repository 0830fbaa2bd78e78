"""The generated palette: distinct for every sight, without black, and used for custom data only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rmrkd_cli.data.palette import distinct_palette
from tests.data.check.test_check import info_of

# Viénot, Brettel and Mollon (1999) for red and green: another simulation than the palette is made with. There is none
# of this form for blue, so it is Machado's.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def lab(colours: np.ndarray, sight: np.ndarray) -> np.ndarray:
    values = np.asarray(colours, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ sight.T, 0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(srgb.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]


def smallest_distance(colours: object, sight: str) -> float:
    points = lab(np.array(colours), SIGHTS[sight])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(distances[np.triu_indices(len(points), 1)].min())


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize(("count", "least"), [(3, 30), (7, 20), (11, 15), (19, 10), (50, 5), (150, 2), (255, 0.5)])
def test_colours_are_distinct_for_every_sight(count: int, least: float, sight: str) -> None:
    assert smallest_distance(distinct_palette(count), sight) > least


def test_the_palette_has_no_black_and_no_white_and_grows_at_its_end() -> None:
    palette = distinct_palette(255)
    assert len(set(palette)) == 255
    for unwanted, least in (((0, 0, 0), 35), ((255, 255, 255), 10)):
        points = lab(np.array([*palette, unwanted]), np.eye(3))
        assert np.linalg.norm(points[:-1] - points[-1], axis=1).min() > least
    assert min(lab(np.array(palette), np.eye(3))[:, 0]) > 35
    for count in (0, 1, 2, 19):
        assert distinct_palette(count) == palette[:count]


def test_custom_data_get_it_and_known_data_keep_theirs(tmp_path: Path) -> None:
    folder = {"images": "x", "labels": "y"}
    data = {"classes": ["a", "b", "c"], "train": folder, "val": folder, "train_scale": [40, 40]}
    assert info_of("custom", tmp_path, **data).palette == distinct_palette(3)
    own = [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert info_of("custom", tmp_path, **data, palette=own).palette == tuple(map(tuple, own))
    assert info_of("voc12aug", tmp_path).palette[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert info_of("cityscapes", tmp_path).palette[0] == (128, 64, 128)
