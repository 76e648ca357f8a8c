"""The report: its HTML, and what it does in a browser.

The browser is headless Chromium (`browser.py`): ``apt-get install chromium chromium-driver``;
without it those tests are skipped.
"""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from browser import MISSING, Browser, browser, there
from matplotlib.figure import Figure

from expressway import io, pl, tl
from expressway.cli import folder
from expressway.models.status import MEANINGS

NASTY = [
    "</script><b>x",
    "<!--<script>",
    "a&b\"c'd",
    "$x_1$",
    "na\u00efve \u57fa\u56e0",
    "null",
    "back\\slash",
]
LONG = "ENSG_" + "very_long_name_" * 8
# A transparent pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
)
ALPHA = 0.1


def table(genes: int, seed: int = 0, base: pd.DataFrame | None = None) -> pd.DataFrame:
    """A table of results; one that is given has the means and dispersions."""
    rng = np.random.default_rng(seed)
    names = [*NASTY, LONG, *(f"gene_{j}" for j in range(genes - len(NASTY) - 1))]
    p_value = 10.0 ** -rng.exponential(2, genes)
    p_value[:4] = [0.0, 1e-300, 1.0, np.nan]
    found = pd.DataFrame(
        {
            "base_mean": np.exp(rng.normal(4, 3, genes)) if base is None else base["base_mean"],
            "log2_fold_change": rng.normal(0, 2, genes),
            "lfc_se": rng.uniform(0.05, 2, genes),
            "stat": rng.normal(0, 5, genes),
            "p_value": p_value,
            "p_adj": np.where(np.arange(genes) % 5 == 4, np.nan, np.minimum(1, p_value * 3)),
            "dispersion": rng.uniform(1e-8, 1, genes) if base is None else base["dispersion"],
            "status": pd.Categorical(rng.choice(["ok", "outlier", "low_count"], genes), MEANINGS),
        },
        index=pd.Index(names, name="gene"),
    )
    found.iloc[5, [1, 2, 3]] = np.nan
    found.iloc[6, 2] = np.inf
    return found


def made(path: Path, genes: int = 200, parts: int = 2) -> tuple[Path, list[pd.DataFrame]]:
    """Write a report of some contrasts."""
    first = table(genes)
    tables = [first, *(table(genes, seed, first) for seed in range(1, parts))]
    image = io.Image("MA <i>", "What it says & shows.", PIXEL, wide=True)
    names = ["condition <b> vs control", "batch & more", "third"]
    report = io.Report(
        title="Differential expression: <b>",
        facts={"Design": "~ a + I(b < 2) & c", "Samples": "8"},
        parts=[io.Part(names[k], one, [image], 1.5) for k, one in enumerate(tables)],
        alpha=ALPHA,
        figures=[image],
        warnings=["<script>alert(1)</script>"],
        details={"Settings": {"alpha": ALPHA, "refit": True, "none": None, "a<b": ["<", "&"]}},
        seconds={"reading": {"wall": 1.234, "cpu": 0.5}},
    )
    io.write_report(path, report)
    return path, tables


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, list[pd.DataFrame]]:
    return made(tmp_path_factory.mktemp("large") / "report.html", genes=20_000, parts=1)


class Reader(HTMLParser):
    """Elements, attributes and the data of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.data = self.data or data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, list[pd.DataFrame]]:
    return made(tmp_path_factory.mktemp("report") / "report.html")


def test_texts_are_escaped_and_elements_closed(report):
    page = Reader(report[0].read_text(encoding="utf-8"))
    assert page.open == []
    assert not any(tag in ("b", "i") for tag, at in page.found if at)
    text = "".join(page.texts)
    for part in ("<script>alert(1)</script>", "~ a + I(b < 2) & c", "condition <b> vs control"):
        assert part in text
    assert "alpha0.1" in text
    assert "1.23" in text
    # Two scripts of ours: the data and the program.
    assert sum(tag == "script" for tag, _ in page.found) == 2


def test_nothing_is_asked_of_a_network(report):
    text = report[0].read_text(encoding="utf-8")
    found = Reader(text).found
    assert all((at.get("src") or "data:").startswith("data:") for _, at in found)
    assert not any(tag in ("link", "iframe", "object") for tag, _ in found)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_data_are_the_tables(report):
    path, tables = report
    data = json.loads(Reader(path.read_text(encoding="utf-8")).data)
    assert data["genes"] == list(tables[0].index)
    for contrast, expected in zip(data["contrasts"], tables, strict=True):
        for column in contrast["columns"]:
            values = data["lists"][column["values"]]
            if column["words"] is not None:
                assert [column["words"][v] for v in values] == list(expected[column["key"]])
                continue
            # Five significant digits are written.
            found = np.array([np.nan if v is None else v for v in values], float)
            np.testing.assert_allclose(found, expected[column["key"]], rtol=5.1e-5)
    # Means and dispersions are those of the fit: they are there once.
    shared = [{c["key"]: c["values"] for c in one["columns"]} for one in data["contrasts"]]
    assert {k for k in shared[0] if shared[0][k] == shared[1][k]} == {"base_mean", "dispersion"}


def test_the_counts_are_those_of_the_table(report):
    path, tables = report
    found = io.tally(tables[0], ALPHA)
    called = tables[0][tables[0]["p_adj"] < ALPHA]
    assert found["up"] == (called["log2_fold_change"] > 0).sum()
    assert found["down"] == (called["log2_fold_change"] < 0).sum()
    assert found["outlier"] == (tables[0]["status"] == "outlier").sum()
    text = path.read_text(encoding="utf-8")
    assert f'<th scope="row">up</th><td>{found["up"]}</td>' in text
    assert MEANINGS["low_count"].split("'")[0] in text


def test_a_large_report_is_small(large):
    # 20,000 genes; a second contrast of the same fit takes 1 MB more, figures as much again.
    assert large[0].stat().st_size < 2.5e6


@pytest.fixture(scope="module")
def fitted(adata) -> anndata.AnnData:
    found = adata.copy()
    tl.de(found, "~ batch + condition", SPECS[0])
    return found


SPECS = [("condition", "treated", "control"), "batch[T.batch_2]"]


@pytest.mark.parametrize("formats", [("svg",), ("png", "pdf"), ()])
def test_the_folder_has_the_figures_and_the_report(fitted, formats, tmp_path, monkeypatch):
    for name in ("ma", "volcano", "dispersion", "pca", "sample_distances", "heatmap", "p_values"):
        monkeypatch.setattr(pl, name, lambda *_, **__: Figure(dpi=20).subplots())
    monkeypatch.setattr(pl, "counts", lambda *_: Figure(dpi=20).subplots(1, 2))
    clock = io.Clock()
    tl.contrast(fitted, SPECS[0])  # a command has just tested the first one
    tested = folder.tables(fitted, SPECS, clock)
    place = folder.Place(tmp_path, clock, "csv", formats, True)
    folder.write(fitted, tested, place, {"input": {}})
    each = ("counts", "heatmap", "ma", "p_values", "volcano")
    expected = {"cooks", "dispersion", "pca", "sample_distances"}
    expected |= {f"{name}{one.suffix}" for name in each for one in tested}
    drawn = {path.name for path in tmp_path.glob("figures/*")}
    assert drawn == {f"{name}.{kind}" for name in expected for kind in formats}
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    images = [at for tag, at in page.found if tag == "img"]
    assert len(images) == len(expected)
    assert all(at["src"].startswith("data:image/png;base64,") and at["alt"] for at in images)
    text = "".join(page.texts)
    for part in ("~ batch + condition", "condition treated vs control", "cooks_cutoff", "anndata"):
        assert part in text
    record = json.loads((tmp_path / "run.json").read_text())
    assert "report.html" in record["files"]
    assert {"figures", "report"} < set(record["seconds"])


def test_no_more_samples_than_a_figure_can_show(fitted, tmp_path, monkeypatch):
    from expressway.cli import figures

    monkeypatch.setattr(figures, "MOST_SAMPLES", 7)
    tl.contrast(fitted, SPECS[0])
    tested = folder.tables(fitted, SPECS[:1], io.Clock())
    drawn = [one.name for one in figures.draw(fitted, tested)]
    assert drawn == ["ma", "volcano", "p_values", "dispersion"]


def test_columns_of_the_contrast_come_first(adata):
    from expressway.cli import figures

    table = pd.DataFrame(columns=["age", "batch", "condition"])
    for name, first in (
        ("condition treated vs control", "condition"),
        ("batch[T.batch_2]", "batch"),
        ("age", "age"),
        ("0.5 * a", "condition"),
    ):
        one = folder.Tested(name, "", pd.DataFrame(), 0.0)
        found = figures._first(table, one, ["batch", "condition"])
        assert next(iter(found)) == first
        assert sorted(found) == ["age", "batch", "condition"]


def test_formats_of_figures():
    assert folder.parse_formats("png, PDF,png") == ["png", "pdf"]
    assert folder.parse_formats("") == []
    with pytest.raises(io.InputError, match="--figures jpg: jpg is none of png, pdf, svg"):
        folder.parse_formats("jpg")


def test_tables_of_other_genes_are_refused(tmp_path):
    parts = [io.Part("one", table(20)), io.Part("two", table(21))]
    with pytest.raises(ValueError, match="the table of two has other genes than that of one"):
        io.write_report(tmp_path / "report.html", io.Report("x", {}, parts, ALPHA))
    with pytest.raises(ValueError, match="one contrast at least"):
        io.write_report(tmp_path / "report.html", io.Report("x", {}, [], ALPHA))


@pytest.fixture(scope="module")
def window():
    if not there():
        pytest.skip(MISSING)
    with browser() as one:
        yield one


TO = "\N{EN DASH}"
ROWS = ".part:not([hidden]) .results tbody tr"


def names(window: Browser) -> list[str]:
    return window.texts(f"{ROWS} th")


def head(key: str) -> str:
    return f".part:not([hidden]) .results th[data-key='{key}'] button"


def test_in_a_browser(report, window):
    path, (first, second) = report
    window.open(path)
    assert window.log() == []
    assert window.run("return document.title") == "Differential expression: <b>"
    assert window.run("return document.images.length") == 3
    assert window.run("return [...document.images].every(i => i.complete && i.naturalWidth == 1)")
    # By p-value first, then by size of the statistic.
    size = -first["stat"].abs()
    order = first.assign(size=size).sort_values(["p_value", "size"], kind="stable").index
    assert names(window) == list(order[:15])
    assert names(window)[0] == "</script><b>x"

    for key, ascending in (("base_mean", True), ("base_mean", False), ("log2_fold_change", True)):
        window.click(head(key))
        expected = first.loc[order].sort_values(key, ascending=ascending, kind="stable")
        assert names(window) == list(expected.index[:15])
        sort = window.run("return arguments[0] && document.querySelector(arguments[0]).ariaSort",
                          f".part:not([hidden]) th[data-key='{key}']")  # fmt: skip
        assert sort == ("ascending" if ascending else "descending")
    window.click(head("p_adj"))
    window.click(head("p_adj"))
    expected = first.loc[order].sort_values("p_adj", ascending=False, kind="stable").index
    assert names(window) == list(expected[:15])  # missing ones are last in both orders

    window.type("input[type=search]", "GENE_1")
    matching = [gene for gene in expected if "gene_1" in gene]
    assert names(window) == matching[:15]
    assert window.texts("[role=status]") == [f"1{TO}15 of {len(matching)} genes"]
    window.click(".part:not([hidden]) .pages button:nth-of-type(2)")
    assert names(window) == matching[15:30]
    window.type("input[type=search]", "")
    window.type("input[inputmode=decimal]", "1e-3")
    few = [gene for gene in expected if first["p_adj"][gene] < 1e-3]
    assert window.texts("[role=status]") == [f"1{TO}15 of {len(few)} genes"]
    window.type("input[type=search]", "no such gene")
    assert window.texts("[role=status]") == ["0 genes"]
    assert window.log() == []

    # With keys only: the second contrast, a sort.
    window.press("#tab-0", "Right")
    assert window.texts("[role=tab][aria-selected=true]") == ["batch & more"]
    assert window.run("return document.activeElement.id") == "tab-1"
    window.press(head("stat"), "Enter")
    order = second.assign(size=-second["stat"].abs()).sort_values(["p_value", "size"]).index
    assert names(window) == list(second.loc[order].sort_values("stat", kind="stable").index[:15])
    cells = window.texts(f"{ROWS}:first-child td")
    row = second.sort_values("stat").iloc[0]
    assert cells[3] == f"{row['stat']:.3f}".replace("-", "\N{MINUS SIGN}")
    assert cells[-1] == row["status"]
    assert window.log() == []


def test_twenty_thousand_genes_in_a_browser(large, window):
    path, (expected,) = large
    window.open(path)
    assert len(names(window)) == 15
    script = "const t = performance.now(); document.querySelector(arguments[0]).click();"
    seconds = window.run(script + "return (performance.now() - t) / 1000", head("base_mean"))
    assert seconds < 3  # .03 on a quiet machine, which a tester's need not be
    window.type("input[type=search]", "gene_1999")
    assert sorted(names(window)) == sorted(g for g in expected.index if "gene_1999" in g)
    assert window.log() == []


@pytest.mark.parametrize("width", [1280, 500])
def test_no_window_is_too_narrow(report, window, width):
    window.open(report[0], width=width)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert window.run(wide) == 0
