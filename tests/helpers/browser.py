"""Find the Chromium for tests of HTML pages."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "RMRKD_REQUIRE_BROWSER"  # environment variable; set in CI, where these tests must run
HOW_TO_INSTALL = "apt-get install chromium"


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def may_skip() -> bool:
    """Return whether browser tests are skipped: without a browser, unless one is required."""
    return find_browser() is None and not os.environ.get(REQUIRED)
