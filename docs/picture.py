"""Draw docs/night.svg: the output of `nightschool night`, from the JSON of a real night.

    nightschool --home DIR night --json > night.json
    python docs/picture.py night.json

Invariant: words and figures come from `loop.cli.show.night`; the picture shows only what is printed.
The picture has its own dark ground and no outside font, so it looks the same on any page.
"""

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from corpus.json_edge import from_json
from loop.cli.show import night
from loop.operations.results.nights import NightResult

PICTURE = Path(__file__).parent / "night.svg"
COLUMNS = 90
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>{label}</title>
<style>
.{unique_id}-matrix {{ font-family: monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
{lines}
</defs>
<rect fill="#0c0c0c" width="{width}" height="{height}" rx="8"/>
<g transform="translate(16, 20)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw(report: NightResult) -> str:
    """Return the picture of one night as SVG."""
    night.out = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    night.out.print("$ nightschool night", style="dim")
    night.night(report)
    code = FORMAT.replace(
        "{label}", "What a night prints: pass rates before and after, the verdict, the checkpoint"
    )
    return night.out.export_svg(theme=MONOKAI, code_format=code, unique_id="night")


if __name__ == "__main__":
    PICTURE.write_text(draw(from_json(NightResult, json.loads(Path(sys.argv[1]).read_text()))))
