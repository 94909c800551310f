"""A digest or a failure as a message: text, HTML that mail clients show, Slack's blocks. Pure.

Mail clients run no script, fetch no image and drop most of CSS: the charts are cells of a table with a height and a colour. Gmail
cuts a mail off at 102 kB, so what is missing and the lines have a share of bytes each; the lines with a chart have half of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import TypeAlias
from urllib.parse import quote

from keen_pipeline.notifications.digest import Digest, Line
from keen_pipeline.notifications.send import Attachment, Message
from keen_pipeline.pipeline.told import Group, few, shortened

Links: TypeAlias = Callable[[str, str], str | None]

MOST_LINES = 100
_MISSING_BYTES = 25_000
_LINES_BYTES = 70_000
MOST_MISSING = 20
_SLACK_LINES = 30
_SLACK_CHARACTERS = 2900
_BAR_PIXELS = 28
_RUN = "The run in Dagster, which can be re-executed there"
_STEPS = "▁▂▃▄▅▆▇█"
_INK, _GREY, _RED, _AMBER, _BLUE, _PALE = "#1f2933", "#7b8794", "#c62828", "#b26a00", "#2f6fdb", "#a9c3ec"
_FONT = "font-family:-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"
_CELL = "padding:8px 10px 8px 0;border-bottom:1px solid #e4e7eb;vertical-align:middle"
_HEAD = f"padding:4px 10px 4px 0;border-bottom:2px solid #cbd2d9;font-size:12px;color:{_GREY};text-align:left"


def digest_message(
    identity: str,
    digest: Digest,
    *,
    ui_url: str | None = None,
    assets: Mapping[str, str] | None = None,
    attachments: Sequence[Attachment] = (),
) -> Message:
    """The nightly digest. `ui_url`: root of Dagster's UI, for links; `assets`: the path of each collection's asset."""
    links = _links_of(ui_url, assets or {})
    lines = sorted(digest.lines, key=lambda line: (line.entry is not None, not line.unusual, line.collection))
    return Message(
        identity=identity,
        subject=_subject(digest),
        text=_text(digest, lines, attachments),
        html=_html(digest, lines, links, attachments),
        slack=_slack(digest, lines, links),
        attachments=attachments,
    )


def failure_message(identity: str, body: Mapping[str, str], ui_url: str | None) -> Message:
    """Something failed just now. `body`: its title, the id of its run, and its story: what, why, what was kept, and indented what
    to do, in plain text. `ui_url`: as for the digest."""
    title, story, link = body["title"], body["story"], f"{ui_url.rstrip('/')}/runs/{body['run']}" if ui_url else None
    first, _, rest = story.partition("\n")
    lines = [f"<code>{escape(line)}</code>" if line.startswith("  ") else escape(line) for line in rest.splitlines()]
    html = f'<div style="{_FONT};font-size:14px;color:{_INK}"><p><b style="color:{_RED}">{escape(first)}</b></p>'
    html += f'<p style="white-space:pre-wrap">{"<br>".join(lines)}</p>' if lines else ""
    html += f'<p><a href="{escape(link)}" style="color:{_BLUE}">{_RUN}</a></p></div>' if link else "</div>"
    told = f":red_circle: *{title.partition(':')[0]}: {_slack_text(first)}*\n{_slack_text(rest)}"
    blocks = [_section(told[: _SLACK_CHARACTERS - 300] + (f"\n<{link}|{_RUN}>" if link else ""))]
    return Message(identity, title, f"{story}\n" + (f"\n{_RUN}:\n{link}\n" if link else ""), _page(html), blocks)


def _links_of(ui_url: str | None, assets: Mapping[str, str]) -> Links:
    """By collection and partition key the partition in Dagster's UI, None without a root or for what isn't an asset."""

    def link(collection: str, partition_key: str) -> str | None:
        if ui_url is None or collection not in assets:
            return None
        path, partition = quote(assets[collection]), quote(partition_key, safe="")
        return f"{ui_url.rstrip('/')}/assets/{path}?view=partitions&partition={partition}"

    return link


def _subject(digest: Digest) -> str:
    what = f"{len(digest.landed)} of {len(digest.lines)} landed, {digest.events:,} events"
    failed, waiting = digest.count_missing(is_open=False), digest.count_missing(is_open=True)
    told = f"{f', {failed} failed' if failed else ''}{f', {waiting} still open' if waiting else ''}"
    return f"{digest.title} {digest.night}: {what}{told}"


def sparkline(bars: Sequence[tuple[str, int | None]]) -> str:
    """The same chart in characters; a dot if nothing has landed.

    >>> sparkline([("a", 0), ("b", None), ("c", 4), ("d", 8)])
    '▁·▄█'
    """
    most = max((events for _, events in bars if events), default=1)
    return "".join("·" if events is None else _STEPS[max(0, -(-events * len(_STEPS) // most) - 1)] for _, events in bars)


def _change(line: Line) -> str:
    if line.usual is None or line.events is None:
        return ""
    if not line.usual:
        return "as usual" if not line.events else "usually none"
    percent = round(100 * (line.events - line.usual) / line.usual)
    return f"{abs(percent)} % {'above' if percent > 0 else 'below'} usual" if percent else "as usual"


def _size(number: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def _where(line: Line, attachments: Sequence[Attachment]) -> str:
    assert line.landing is not None
    attached = attachment_name(line) in {attachment.name for attachment in attachments}
    return f"attached, {line.landing.uri}" if attached else line.landing.uri


def attachment_name(line: Line) -> str:
    """The file's name beside a mail: collection and partition, whatever its layout."""
    assert line.entry is not None
    name = f"{line.collection}-{line.partition_key}.{line.entry.request.encoding.value}"
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name.replace(":", ""))


# -- text -------------------------------------------------------------------------------------------------------------------------


def _text(digest: Digest, lines: Sequence[Line], attachments: Sequence[Attachment]) -> str:
    out = [_subject(digest), ""]
    out += [f"{'OPEN' if group.is_open else 'FAILED'}  {group}" for group in digest.missing[:MOST_MISSING]]
    out += [_more(len(digest.missing), MOST_MISSING), ""]
    for line in lines[:MOST_LINES]:
        out.append(f"{line.collection} {line.partition_key}  {sparkline(line.bars)}")
        if line.landing is None:
            out += ["  not landed", ""]
            continue
        facts = [
            f"{line.events:,} events",
            _change(line) + (" (!)" if line.unusual else ""),
            _size(line.landing.stored_bytes),
        ]
        out.append("  " + ", ".join(fact for fact in facts if fact))
        out.append(f"  {_where(line, attachments)}")
        out += [f"  also landed: {_keys(line.also_landed)}"] if line.also_landed else []
        out.append("")
    out.append(_more(len(lines), MOST_LINES))
    return "\n".join(out).strip() + "\n"


def _keys(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[-5:])
    return shown if len(keys) <= 5 else f"{shown} and {len(keys) - 5} earlier"


def _more(number: int, shown: int) -> str:
    return f"... and {number - shown} more" if number > shown else ""


# -- HTML -------------------------------------------------------------------------------------------------------------------------


def _page(body: str) -> str:
    head = '<!doctype html><html><head><meta charset="utf-8"></head>'
    return f'{head}<body style="margin:0;padding:16px;background:#ffffff">{body}</body></html>'


def _html(digest: Digest, lines: Sequence[Line], links: Links, attachments: Sequence[Attachment]) -> str:
    title = f"<b>{escape(digest.title)} extractions, {escape(digest.night)}</b>"
    parts = [f'<div style="{_FONT};font-size:18px;color:{_INK};margin:0 0 4px">{title}</div>']
    landed = f"{len(digest.landed)} of {len(digest.lines)} collections landed, {digest.events:,} events"
    parts.append(f'<div style="{_FONT};font-size:14px;color:{_GREY};margin:0 0 12px">{landed}</div>')
    missing = _fitting([_missing_html(group, links) for group in digest.missing[:MOST_MISSING]], _MISSING_BYTES)
    charts = _fitting([_row(line, links, attachments, chart=True) for line in lines[:MOST_LINES]], _LINES_BYTES // 2)
    others = [_row(line, links, attachments, chart=False) for line in lines[len(charts) : MOST_LINES]]
    rows = [*charts, *_fitting(others, _LINES_BYTES - sum(len(row.encode()) for row in charts))]
    parts += missing
    heads = "".join(
        f'<th style="{_HEAD}{";text-align:right" if name == "events" else ""}">{name}</th>'
        for name in ("collection", "events", "", "last weeks", "file")
    )
    parts.append(
        f'<table cellpadding="0" cellspacing="0" border="0" style="border-collapse:collapse;margin:12px 0 0;{_FONT};font-size:14px;'
        f'color:{_INK}">'
        f"<tr>{heads}</tr>{''.join(rows)}</table>"
    )
    more = " ".join(filter(None, [_more(len(digest.missing), len(missing)), _more(len(lines), len(rows))]))
    usual = "; usual is the median of the same weekday in the last eight weeks" if any(_change(line) for line in lines) else ""
    foot = f"{more} A bar is one partition{usual}."
    parts.append(f'<div style="{_FONT};font-size:12px;color:{_GREY};margin:12px 0 0">{escape(foot.strip())}</div>')
    return _page("\n".join(parts))


def _fitting(parts: Sequence[str], most_bytes: int) -> list[str]:
    """As many of them as fit together."""
    sizes = accumulate(len(part.encode()) for part in parts)
    return [part for part, size in zip(parts, sizes, strict=True) if size <= most_bytes]


def _missing_html(group: Group, links: Links) -> str:
    colour, word = (_AMBER, "still open") if group.is_open else (_RED, "failed")
    name = _linked(f"{group.collection} {few(group.keys)}", links(group.collection, group.keys[0]))
    return (
        f'<div style="{_FONT};font-size:14px;color:{_INK};border-left:4px solid {colour};padding:4px 0 4px 10px;margin:0 0 6px">'
        f'<b>{name}</b> <span style="color:{colour}">{word}</span><br>{escape(shortened(group.reason))}'
        f"<br><code>{escape(group.command)}</code></div>"
    )


def _linked(text: str, link: str | None) -> str:
    if link is None:
        return escape(text)
    link = escape(link)
    return f'<a href="{link}" style="color:{_BLUE};white-space:nowrap">{escape(text)}</a>'


def _row(line: Line, links: Links, attachments: Sequence[Attachment], *, chart: bool) -> str:
    name = f"<b>{escape(line.collection)}</b><br>" + _linked(line.partition_key, links(line.collection, line.partition_key))
    if line.landing is None:
        events, change, file = f'<span style="color:{_RED}">not landed</span>', "", ""
    else:
        events = f"{line.events:,}"
        colour, sign = (_AMBER, " (!)") if line.unusual else (_GREY, "")
        change = f'<span style="color:{colour}">{escape(_change(line))}{sign}</span>'
        told = f"also landed: {escape(_keys(line.also_landed))}" if line.also_landed else ""
        also = f'<div style="color:{_GREY};word-break:normal">{told}</div>'
        file = f"{_size(line.landing.stored_bytes)}, {escape(_where(line, attachments))}{also}"
    bars = _chart(line.bars) if chart else escape(sparkline(line.bars))
    small = f"{_CELL};font-size:12px;word-break:break-all"
    cells = [
        (_CELL, name),
        (f"{_CELL};text-align:right", events),
        (f"{_CELL};font-size:12px", change),
        (_CELL, bars),
        (small, file),
    ]
    return "<tr>" + "".join(f'<td style="{style}">{content}</td>' for style, content in cells) + "</tr>"


def _chart(bars: Sequence[tuple[str, int | None]]) -> str:
    most = max((events for _, events in bars if events), default=1)
    cells = []
    for number, (key, events) in enumerate(bars):
        height = max(1, round(_BAR_PIXELS * (events or 0) / most))
        colour = "#e0b4b4" if events is None else _BLUE if number == len(bars) - 1 else _PALE
        said = f"{key}: {'not landed' if events is None else f'{events:,}'}"
        cell = f'<td width="5" height="{height}" bgcolor="{colour}" style="font-size:1px;line-height:1px"></td>'
        bar = f'<table cellpadding="0" cellspacing="0"><tr>{cell}</tr></table>'
        cells.append(f'<td valign="bottom" style="padding-right:1px" title="{escape(said)}">{bar}</td>')
    return f'<table cellpadding="0" cellspacing="0"><tr height="{_BAR_PIXELS}">{"".join(cells)}</tr></table>'


# -- Slack ------------------------------------------------------------------------------------------------------------------------


def _slack(digest: Digest, lines: Sequence[Line], links: Links) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = [{"type": "header", "text": {"type": "plain_text", "text": _subject(digest)[:150]}}]
    for group in digest.missing[: MOST_MISSING // 2]:
        sign = ":hourglass:" if group.is_open else ":red_circle:"
        name = _slack_link(f"{group.collection} {few(group.keys)}", links(group.collection, group.keys[0]))
        blocks.append(_section(f"{sign} *{name}* {_slack_text(shortened(group.reason))}\n`{_slack_text(group.command)}`"))
    if more := _more(len(digest.missing), MOST_MISSING // 2):
        blocks.append(_section(more))
    said = []
    for line in lines[:_SLACK_LINES]:
        events = "not landed" if line.events is None else f"{line.events:,} events"
        name = _slack_link(f"{line.collection} {line.partition_key}", links(line.collection, line.partition_key))
        warning = ":warning: " if line.unusual else ""
        said.append(f"{warning}*{name}*  {events}  {_change(line)}\n`{sparkline(line.bars)}`")
    blocks += [_section("\n".join(said[at : at + 6])) for at in range(0, len(said), 6)]
    if more := _more(len(lines), _SLACK_LINES):
        blocks.append(_section(more))
    return blocks


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:_SLACK_CHARACTERS] or " "}}


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _slack_link(text: str, link: str | None) -> str:
    return f"<{link}|{_slack_text(text)}>" if link else _slack_text(text)
