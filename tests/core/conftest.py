"""What several tests of pages share."""

from __future__ import annotations

import pytest
from browser import browser, chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A page of Chromium."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with browser(program, tmp_path_factory.mktemp("chromium")) as page:
        yield page
