"""The report of `vlp data check` as one HTML file, with samples of each split and their pictures. It loads nothing from
elsewhere, and all texts are escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from vlp.curation.check.check import CheckReport, SplitReport
from vlp.curation.check.text_checks import TokenLengths
from vlp.data.images import ImageError, open_image, to_rgb
from vlp.structures import Sample
from vlp.system.atomic import atomic_write_text
from vlp.system.units import printable

THUMBNAIL_SIDE = 160  # pixels
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } th, td { text-align: left;
  padding: .2rem .8rem; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right } .fatal { color: #b00020; font-weight: 600 } code { font-size: 13px; overflow-wrap: anywhere }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-size: 13px; overflow-wrap: anywhere } img { max-width: 100% }
.bar { display: inline-block; background: #4a7; width: 6px; margin-right: 1px; vertical-align: bottom } .cut { background: #b00020 }
"""


def write_html_report(report: CheckReport, path: Path) -> None:
    atomic_write_text(path, "\n".join(_report_lines(report)))


def escape_text(text: object, width: int = 400) -> str:
    return html.escape(printable(str(text), width))


def _report_lines(report: CheckReport) -> Iterator[str]:
    # even if a text were not escaped, the browser would run no script and load nothing
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>vlp data check</title><style>{STYLE}</style><h1>vlp data check</h1>"
    fatal = f'<p class="fatal">{report.fatal:,} faults would end a run.</p>'
    yield fatal if report.fatal else "<p>No fault would end a run.</p>"
    for name, split in report.splits.items():
        yield f"<h2>{escape_text(name)}</h2>"
        yield from _split_section(split)
    if report.overlap is not None:
        yield "<h2>Overlaps</h2>"
        lines = [*map(str, report.overlap.overlaps)]
        lines += [
            f"{c.left} and {c.right}: {c.count} captions are the same, such as {c.examples[0]}"
            for c in report.overlap.captions
        ]
        yield "".join(f"<p>{escape_text(line, 2000)}</p>" for line in lines) or "<p>No photo is in two of them.</p>"
    yield "</html>"


def _split_section(split: SplitReport) -> Iterator[str]:
    yield (
        f"<p>{split.samples:,} samples of {split.images:,} images, {split.captions:,} captions, {split.questions:,} questions. "
        f"{escape_text(split.shapes) if split.shapes else ''}</p>"
    )
    if split.lengths is not None and split.lengths.count:
        yield _length_histogram(split.lengths)
    if split.findings:
        yield "<table><tr><th>count<th>fault<th>examples"
        for issue in split.sorted_findings():
            examples = "<br>".join(f"<code>{escape_text(example)}</code>" for example in issue.examples)
            style = ' class="fatal"' if issue.fatal else ""
            yield f'<tr><td class="number">{issue.count:,}<td{style}>{escape_text(issue.kind)}<td>{examples}'
        yield "</table>"
    yield '<div class="samples">' + "".join(map(_sample_figure, split.example_samples)) + "</div>"


def _length_histogram(lengths: TokenLengths) -> str:
    top = max(lengths.histogram.values())
    longest = min(max(lengths.histogram), 2 * lengths.context)
    bars = "".join(
        f'<span class="bar{" cut" if tokens > lengths.context else ""}" title="{tokens} tokens: {count:,}" '
        f'style="height:{1 + round(60 * count / top)}px"></span>'
        for tokens in range(1, longest + 1)
        for count in [lengths.histogram.get(tokens, 0)]
    )
    mean = lengths.total / lengths.count
    return f"<p>{bars}<br>{mean:.1f} tokens on average, {lengths.longest} at most; {lengths.cut:,} are cut at {lengths.context}</p>"


def _sample_figure(sample: Sample) -> str:
    texts = [*sample.captions[:5], *([sample.question] if sample.question else []), *dict.fromkeys(sample.answers)]
    caption = "<br>".join(escape_text(text, 200) for text in texts)
    name = escape_text(Path(str(sample.image)).name, 80)
    return f"<figure>{_thumbnail_html(sample)}<figcaption><code>{name}</code><br>{caption}</figcaption></figure>"


def _thumbnail_html(sample: Sample) -> str:
    try:
        image = to_rgb(open_image(sample.image, decode_side=THUMBNAIL_SIDE))
    except ImageError as error:
        return f'<p class="fatal">{escape_text(error.reason)}</p>'
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), PIL.Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}" alt="">'
