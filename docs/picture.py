"""Make the documentation's pictures: the top of a report, as Chromium shows it, to a figure.

    unlearn demo --output out/demo --overwrite
    python docs/picture.py out/demo/npo/audit/report.html docs/report.png 2
    python docs/picture.py out/tofu_small/report.html docs/comparison.png 1

Needs the packages chromium and chromium-driver.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, LIMIT = 1120, 200_000


def main(page: Path, picture: Path, figures: int) -> None:
    """Take the picture of a page, down to the end of so many figures."""
    place = Path(__file__).parents[1] / "tests" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", place)
    assert spec is not None
    assert spec.loader is not None
    chromium = importlib.util.module_from_spec(spec)
    sys.modules["chromium"] = chromium
    spec.loader.exec_module(chromium)
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as browser:
        raw = Path(folder) / "raw.png"
        opened = browser.open(page.absolute(), WIDTH)
        shown = "[...document.querySelectorAll('figure')].filter(f => f.offsetParent)"
        bottom = opened.run(f"return {shown}[{figures - 1}].getBoundingClientRect().bottom")
        browser.screenshot(raw, width=WIDTH, height=bottom + 16)
        # a page has few colours: a palette halves the file and cannot be told apart
        seen = Image.open(raw).convert("RGB")
        seen.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            picture, optimize=True
        )
    size = picture.stat().st_size
    if size > LIMIT:
        sys.exit(f"{picture} has {size:,} bytes, more than {LIMIT:,}")
    print(f"{picture}: {size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
