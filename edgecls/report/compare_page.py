"""A comparison as one HTML page that needs nothing else: figures, flipped images, classes, layers."""

from __future__ import annotations

from html import escape
from pathlib import Path

from edgecls.data.sources import Source
from edgecls.exporting.compare import Comparison, Flip, Side
from edgecls.report import page

MAX_PICTURES = 60


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page."""
    source = comparison.source
    first, second = comparison.first, comparison.second
    title = f"{first.name} → {second.name}"
    page.write(
        path,
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{comparison.images} images from {escape(source.name)} · {escape(first.path)} · '
            f"{escape(second.path)}</p>",
            _facts(comparison),
            _table(first, second),
            _gallery(comparison, source),
            _classes(comparison),
            _layers(comparison),
        ],
    )


def _facts(comparison: Comparison) -> str:
    low, high = comparison.agreement_interval
    facts = [
        ("agreement", f"{100 * comparison.agreement:.2f} %", f"95 %: {100 * low:.2f} to {100 * high:.2f}"),
        ("answers that changed", str(len(comparison.flips)), f"of {comparison.images}"),
    ]
    if comparison.drop_points is not None:
        facts.append(
            (
                "drop of top-1",
                f"{comparison.drop_points:.2f} points",
                f"± {comparison.drop_interval_points:.2f} (95 %, the same images)",
            )
        )
    if comparison.speedup is not None:
        facts.append(("speed", f"{comparison.speedup:.2f}x", "the second against the first, timed in turn"))
    return page.facts(facts)


def _table(first: Side, second: Side) -> str:
    rows = [
        ("top-1", *(page.percent(side.top1) for side in (first, second))),
        ("expected calibration error", *(page.percent(side.calibration_error) for side in (first, second))),
        ("median latency, batch 1", *(_ms(side.latency_ms) for side in (first, second))),
        ("size", *(f"{side.size_bytes / 1e6:.1f} MB" for side in (first, second))),
    ]
    lines = "".join(f"<tr><td>{name}</td><td>{a}</td><td>{b}</td></tr>" for name, a, b in rows)
    return f"<table><tr><th></th><th>{escape(first.name)}</th><th>{escape(second.name)}</th></tr>{lines}</table>"


def _ms(latency_ms: float | None) -> str:
    return "does not run here" if latency_ms is None else f"{latency_ms:.2f} ms"


def _gallery(comparison: Comparison, source: Source) -> str:
    if not comparison.flips:
        return "<h2>Answers that changed</h2><p>None.</p>"
    shown = comparison.flips[:MAX_PICTURES]
    rest = len(comparison.flips) - len(shown)
    more = f'<p class="soft">{rest} more are in the JSON.</p>' if rest else ""
    figures = "".join(_figure(flip, source) for flip in shown)
    return f'<h2>Answers that changed</h2><div class="gallery">{figures}</div>{more}'


def _figure(flip: Flip, source: Source) -> str:
    first, second = (
        f'<span class="{_colour(label, flip.truth)}">{escape(label)} {100 * score:.0f} %</span>'
        for label, score in ((flip.first, flip.first_score), (flip.second, flip.second_score))
    )
    truth = f'<br><span class="soft">truth: {escape(flip.truth)}</span>' if flip.truth is not None else ""
    return (
        f"<figure>{page.thumbnail(source, flip.path)}<figcaption>{first} → {second}{truth}<br>"
        f'<span class="soft">{escape(page.printable(flip.path))}</span></figcaption></figure>'
    )


def _colour(label: str, truth: str | None) -> str:
    if truth is None:
        return ""
    return "good" if label == truth else "bad"


def _classes(comparison: Comparison) -> str:
    first, second = comparison.first.recall, comparison.second.recall
    if first is None or second is None:
        return ""
    rows = sorted(zip(comparison.classes, first, second, strict=True), key=lambda row: row[2] - row[1])
    rows = [row for row in rows if row[1] or row[2]]
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{100 * a:.1f}</td><td>{100 * b:.1f}</td>"
        f'<td class="{"bad" if b < a else "good" if b > a else ""}">{_change(100 * (b - a))}</td></tr>'
        for name, a, b in rows
    )
    return (
        "<h2>Recall of each class (%)</h2><table><tr><th>class</th>"
        f"<th>{escape(comparison.first.name)}</th><th>{escape(comparison.second.name)}</th><th>change</th></tr>{lines}</table>"
    )


def _change(points: float) -> str:
    return f"{points:+.1f}" if abs(points) >= 0.05 else "0"


def _layers(comparison: Comparison) -> str:
    heading = "<h2>Signal-to-noise of the quantized layers (dB)</h2>"
    if not comparison.layers:
        return f'{heading}<p class="soft">{escape(comparison.layers_reason or "")}</p>'
    most = max(max(db for _, db in comparison.layers), 1.0)
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{db:.1f}</td>"
        f'<td class="bars"><span class="bar" style="width:{max(0.0, 100 * db / most):.1f}%"></span></td></tr>'
        for name, db in comparison.layers
    )
    return f"{heading}<table><tr><th>layer, in order of computation</th><th>dB</th><th></th></tr>{lines}</table>"
