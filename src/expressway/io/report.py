"""A report of an analysis: one HTML file that needs nothing else, no network either.

Its figures, style and program are in the file; so are the tables, as JSON, whose rows are made when
they are looked at.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expressway.models.status import MEANINGS

# A page shows less, and results.csv has all.
_FLOAT = "%.5g"
# What columns of a table are called, how a number of them is written, and what they mean.
_COLUMNS = {
    "base_mean": ("mean", "mean", "mean of normalised counts over all samples"),
    "log2_fold_change": ("log₂ FC", "signed", "log₂ fold change"),
    "lfc_se": ("SE", "plain", "standard error of the log₂ fold change"),
    "stat": ("statistic", "signed", "test statistic"),
    "p_value": ("p", "p", "p-value"),
    "p_adj": ("adjusted p", "p", "false-discovery rate: Benjamini and Hochberg's p-value"),
    "s_value": ("s", "p", "s-value: rate of wrong signs among genes with one as small"),
    "dispersion": ("dispersion", "plain", "variance of counts is mean + dispersion times mean²"),
    "status": ("status", "word", "why a number is missing or doubtful"),
}


class Image(NamedTuple):
    """A figure in the report."""

    title: str
    caption: str
    data: bytes
    kind: str = "image/png"
    wide: bool = False


class Part(NamedTuple):
    """What the report says of one contrast."""

    name: str
    table: pd.DataFrame
    """As `tables.results_table` makes it."""
    figures: Sequence[Image] = ()
    threshold: float = 0.0
    """Mean of normalised counts below which the independent filter took genes out."""


class Report(NamedTuple):
    """What a report says."""

    title: str
    facts: Mapping[str, str]
    """What comes first, in a word or two each: the design, how many samples."""
    parts: Sequence[Part]
    alpha: float
    figures: Sequence[Image] = ()
    """Of the whole analysis."""
    warnings: Sequence[str] = ()
    details: Mapping[str, Mapping[str, Any]] = {}
    """Settings, versions and what else there is to tell, under a heading each."""
    seconds: Mapping[str, Mapping[str, float]] = {}
    """Wall and CPU of each stage."""


def tally(table: pd.DataFrame, alpha: float) -> dict[str, int]:
    """Number of genes with counts, of those up and down at a rate, and of each status."""
    called = table["p_adj"] < alpha
    change = table["log2_fold_change"]
    found = {
        "tested": int((table["base_mean"] > 0).sum()),
        "up": int((called & (change > 0)).sum()),
        "down": int((called & (change < 0)).sum()),
    }
    return found | {str(k): int(v) for k, v in table["status"].value_counts(sort=False).items()}


def write_report(path: Path, report: Report) -> None:
    """Write a report.

    Every text is escaped: names of genes and levels, formulas and warnings may hold anything.

    Raises
    ------
    ValueError
        The tables are not of the same genes, or there are none.
    """
    many = len(report.parts) > 1
    page = Template(_asset("report.html")).substitute(
        title=_text(report.title),
        style=_asset("report.css"),
        program=_asset("report.js"),
        facts=_definitions(report.facts),
        warnings=_warnings(report.warnings),
        tabs=_tabs(report.parts) if many else "",
        parts="".join(_part(i, part, report.alpha, many) for i, part in enumerate(report.parts)),
        figures=_figures(report.figures, "Samples and model") if report.figures else "",
        details=_details(report),
        data=payload(report),
    )
    path.write_text(page, encoding="utf-8")


def payload(report: Report) -> str:
    """JSON of the tables that can stand in a script element: five digits of each number.

    Columns that several contrasts share (means, dispersions) are there once: ``values`` is the
    place of a list in ``lists``. A missing number is null; an infinite one 1e999, which is read as
    that.
    """
    if not report.parts:
        msg = "a report needs the table of one contrast at least"
        raise ValueError(msg)
    genes = report.parts[0].table.index
    lists: list[str] = []
    places: dict[str, int] = {}
    contrasts = []
    for part in report.parts:
        if not part.table.index.equals(genes):
            msg = f"the table of {part.name} has other genes than that of {report.parts[0].name}"
            raise ValueError(msg)
        columns = []
        for name in part.table.columns:
            text, words = _values(pd.Series(part.table[name]))
            if text not in places:
                places[text] = len(lists)
                lists.append(text)
            label, kind, title = _COLUMNS.get(str(name), (str(name), "plain", str(name)))
            kind = "word" if words is not None else kind
            column = {"key": str(name), "label": label, "kind": kind, "title": title}
            columns.append(column | {"values": places[text], "words": words})
        contrasts.append({"name": part.name, "columns": columns})
    about = {"alpha": report.alpha, "meanings": MEANINGS, "contrasts": contrasts}
    head = json.dumps(about, ensure_ascii=False)[:-1]
    names = json.dumps([str(gene) for gene in genes], ensure_ascii=False, separators=(",", ":"))
    # JSON inside a script element: only "<" can end it or open a comment.
    return f'{head},"genes":{names},"lists":[{",".join(lists)}]}}'.replace("<", "\\u003c")


def _values(column: pd.Series) -> tuple[str, list[str] | None]:
    """JSON of a column: numbers, or places in a list of words."""
    if column.dtype.kind in "fiu":
        numbers = column.to_numpy(float)
        text = (f"{_FLOAT} " * len(numbers) % tuple(numbers.tolist())).split()
        return f"[{','.join(map(_number, text))}]", None
    codes, words = pd.factorize(column.astype(object))
    return f"[{','.join(map(str, codes))}]", [str(word) for word in words]


def _number(text: str) -> str:
    """A number as JSON has it, in few letters."""
    if text[-1] in "nf":  # nan, inf
        return {"nan": "null", "inf": "1e999"}.get(text, "-1e999")
    return text.replace("e-0", "e-").replace("e+0", "e")


def _asset(name: str) -> str:
    return resources.files("expressway.io").joinpath(name).read_text(encoding="utf-8")


def _text(value: Any) -> str:
    """A value as HTML."""
    if isinstance(value, float) and np.isfinite(value):
        value = f"{value:.6g}"
    elif isinstance(value, bool | np.bool_):
        value = "yes" if value else "no"
    elif isinstance(value, list | tuple | np.ndarray):
        value = ", ".join(map(str, value))
    elif isinstance(value, Mapping):
        value = "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    return "&ndash;" if value is None else html.escape(str(value))


def _plain(value: Any) -> str:
    return html.unescape(_text(value))


def _definitions(facts: Mapping[str, Any]) -> str:
    rows = (f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{_text(one)}</li>" for one in warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def _tabs(parts: Sequence[Part]) -> str:
    buttons = (
        f'<button role="tab" id="tab-{i}" aria-controls="part-{i}" '
        f'aria-selected="{str(i == 0).lower()}"{"" if i == 0 else " tabindex=-1"}>'
        f"{_text(part.name)}</button>"
        for i, part in enumerate(parts)
    )
    return f'<div role="tablist" aria-label="Contrasts">{"".join(buttons)}</div>'


def _part(i: int, part: Part, alpha: float, many: bool) -> str:
    role = f' role="tabpanel" aria-labelledby="tab-{i}"' if many else ""
    return (
        f'<section class="part" id="part-{i}"{role}{" hidden" if i else ""}>'
        f"<h2>{_text(part.name)}</h2>{_counts(part, alpha)}"
        f'<section><h3>All genes</h3><div class="results" data-contrast="{i}">'
        "<noscript>The table needs JavaScript; results.csv beside this file has the same rows."
        f"</noscript></div></section>{_figures(part.figures, 'Figures')}</section>"
    )


def _counts(part: Part, alpha: float) -> str:
    """How many genes are up, down, and of each status, with what that means."""
    found = tally(part.table, alpha)
    tested = found.pop("tested")
    meanings = {
        "up": f"adjusted p-value below {alpha:g}, fold change above 0",
        "down": f"adjusted p-value below {alpha:g}, fold change below 0",
    } | MEANINGS
    always = ("up", "down", "outlier", "low_count")
    rows = []
    for name, meaning in meanings.items():
        number = found.get(name, 0)
        if not number and name not in always:
            continue
        if name == "low_count":
            meaning = f"{meaning} ({part.threshold:.3g})"
        share = f"{number / max(tested, 1):.1%}" if name != "all_zero" else ""
        rows.append(
            f'<tr class="{name}"><th scope="row">{_text(name)}</th><td>{number:,}</td>'
            f"<td>{share}</td><td>{_text(meaning)}</td></tr>"
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Numbers of genes">'
        f'<table class="counts meanings"><caption>{tested:,} genes with counts</caption><thead><tr>'
        '<th scope="col">genes</th><th scope="col">number</th><th scope="col">of those</th>'
        f'<th scope="col">meaning</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _figures(figures: Sequence[Image], heading: str) -> str:
    if not figures:
        return ""
    return (
        f"<section><h3>{heading}</h3>"
        f'<div class="figures">{"".join(map(_image, figures))}</div></section>'
    )


def _image(one: Image) -> str:
    data = base64.b64encode(one.data).decode("ascii")
    wide = ' class="wide"' if one.wide else ""
    return (
        f'<figure{wide}><img alt="{_text(one.title)}" src="data:{one.kind};base64,{data}">'
        f"<figcaption><b>{_text(one.title)}.</b> {_text(one.caption)}</figcaption></figure>"
    )


def _details(report: Report) -> str:
    """Settings, versions, seconds: folded away."""
    found = [
        f"<details><summary>{_text(name)}</summary>{_definitions(some)}</details>"
        for name, some in report.details.items()
    ]
    if report.seconds:
        found.append(f"<details><summary>Seconds</summary>{_seconds(report.seconds)}</details>")
    return "".join(found)


def _seconds(seconds: Mapping[str, Mapping[str, float]]) -> str:
    kinds = list(next(iter(seconds.values())))
    rows = (
        f'<tr><th scope="row">{_text(stage)}</th>{_cells(f"{some[k]:.2f}" for k in kinds)}</tr>'
        for stage, some in seconds.items()
    )
    heads = "".join(f'<th scope="col">{_text(kind)}</th>' for kind in kinds)
    return (
        f'<table class="counts"><thead><tr><th scope="col">stage</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)
