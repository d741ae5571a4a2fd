"""The evaluation report's HTML page: well formed, complete, readable offline."""

import re
from html.parser import HTMLParser

from test_report import report

from evaluation.page import report_html
from evaluation.report import SolvedCluster

VOID = {"meta", "line", "circle"}


class Strict(HTMLParser):
    """Fails on a tag that is not closed where it must be."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_every_table_and_picture_is_there():
    found = report(cluster_names={0: "<b>refund</b> & co"}, solved=[SolvedCluster("L1", "old ones", ("q1", "q3"))])
    page = report_html(found)
    parsed = Strict()
    parsed.feed(page)
    assert parsed.open == []
    assert "<b>refund</b> & co" in parsed.text and "<b>" not in page
    assert page.count("<circle") == 1 + 2 + 1
    for part in ("escalation rate", "served quality", "solved cluster", "old ones (2)", "2026-w30"):
        assert part in parsed.text, part
    assert not re.search(r'(src|href)="https?:', page)


def test_dots_lie_between_their_whiskers():
    page = report_html(report())
    lines = [
        tuple(map(float, m)) for m in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="\d+" y2="\d+" stroke="#', page)
    ]
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', page)]
    whiskers = lines[-len(dots) :]
    assert all(low <= dot <= high for (low, high), dot in zip(whiskers, dots, strict=True))
