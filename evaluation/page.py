"""The evaluation report as one HTML file: the Markdown page's tables, and a picture of every difference."""

from __future__ import annotations

from html import escape

from evaluation.metrics import Comparison
from evaluation.report import EvaluationReport, report_markdown

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1d2430}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;border-bottom:1px solid #e3e6eb;"
    "text-align:left;vertical-align:top}svg text{font:12px system-ui,sans-serif;fill:#1d2430}"
)
_WIDTH, _LEFT, _ROW = 860, 250, 26


def report_html(report: EvaluationReport) -> str:
    """A page that needs nothing else: tables, and the quality difference overall and per cluster with its interval."""
    title = escape(f"{report.candidate} against {report.champion}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n{_differences(report)}\n{_body(report_markdown(report))}\n</body></html>\n"
    )


def _differences(report: EvaluationReport) -> str:
    """Quality differences as a row of dots with whiskers, in percentage points around zero."""
    rows = [report.overall, *report.clusters, *report.solved_clusters]
    ends = [abs(end) for c in rows for end in (c.paired.quality_difference.low, c.paired.quality_difference.high)]
    reach = max(0.01, *ends)
    height = _ROW * (len(rows) + 2)
    zero = _place(0.0, reach)
    lines = [_dot(c, _ROW * (i + 1), reach, bold=i == 0) for i, c in enumerate(rows)]
    axis = (
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="6" y2="{height - _ROW}" stroke="#c9ced6"/>'
        f'<text x="{_LEFT}" y="{height - 8}">{-100 * reach:.1f}</text>'
        f'<text x="{zero:.1f}" y="{height - 8}" text-anchor="middle">0 points of served quality</text>'
        f'<text x="{_WIDTH - 10}" y="{height - 8}" text-anchor="end">+{100 * reach:.1f}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="served quality, candidate against champion, '
        f'overall and per cluster">{axis}{"".join(lines)}</svg>'
    )


def _dot(comparison: Comparison, y: int, reach: float, *, bold: bool) -> str:
    found = comparison.paired.quality_difference
    low, value, high = (_place(x, reach) for x in (found.low, found.value, found.high))
    colour = "#d1603d" if found.high < 0 else "#1b7f5c" if found.low > 0 else "#5a6475"
    weight = ' font-weight="bold"' if bold else ""
    name = escape(f"{comparison.name[:32]} ({found.n})")
    return (
        f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end"{weight}>{name}</text>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{value:.1f}" cy="{y}" r="4" fill="{colour}"/>'
    )


def _place(value: float, reach: float) -> float:
    return _LEFT + (value + reach) / (2 * reach) * (_WIDTH - _LEFT - 10)


def _body(markdown: str) -> str:
    """HTML of the report's own Markdown: a heading, paragraphs, tables and one list."""
    parts: list[str] = []
    for block in markdown.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("# "):
            parts.append(f"<h1>{escape(lines[0][2:])}</h1>")
        elif lines[0].startswith("|"):
            parts.append(_table(lines))
        elif lines[0].startswith("- "):
            parts.append("<ul>" + "".join(f"<li>{escape(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            parts.append(f"<p>{escape(' '.join(lines))}</p>")
    return "\n".join(parts)


def _table(lines: list[str]) -> str:
    def row(line: str, tag: str) -> str:
        cells = (cell.strip() for cell in line.strip("|").split("|"))
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(lines[0], 'th')}{''.join(row(line, 'td') for line in lines[2:])}</table>"
