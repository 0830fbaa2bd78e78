"""The Chromium that tests of pages run in, where there is one."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "RMRKD_REQUIRE_BROWSER"  # set where these tests must run, as in CI
HOW_TO_INSTALL = "apt-get install chromium"


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def may_be_left_out() -> bool:
    """Return whether tests in a browser are skipped here; where one is required they fail instead."""
    return find_browser() is None and not os.environ.get(REQUIRED)
