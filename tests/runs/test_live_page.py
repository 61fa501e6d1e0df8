"""The page of a run exists from the first preview on, and reloads itself only while the run is at work."""

import numpy as np
import pytest

from dreamfusion.image import write_image
from dreamfusion.runs.page import RELOADING, LivePage


@pytest.fixture
def page(tmp_path, compose_config):
    write_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "previews" / "000250.png")
    return LivePage(tmp_path, compose_config("prompt=a cat"))


def test_the_page_of_a_run_at_work_shows_its_previews_and_reloads_itself(page):
    page.show(250)
    text = (page.folder / "index.html").read_bytes()
    assert RELOADING in text
    assert b"step 250" in text
    assert b"250 of 300" in text


def test_the_page_of_a_run_that_ended_early_rests(page):
    page.end()
    assert not (page.folder / "index.html").exists()
    page.show(250)
    page.end()
    assert RELOADING not in (page.folder / "index.html").read_bytes()


def test_the_final_page_stays(page):
    page.show(250)
    (page.folder / "index.html").write_text("final")
    page.end()
    assert (page.folder / "index.html").read_text() == "final"
