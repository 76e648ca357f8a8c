import base64
import functools
import gc
import gzip
import hashlib
import http.server
import importlib
import tarfile
import threading

import numpy as np
import pandas as pd
import pytest

from expressway import datasets
from expressway._errors import InputError
from expressway.datasets import public, rdata, sources

NAMES = ("airway", "pasilla", "fission", "lcl3", "paul15", "paul15_240", "shoemaker500")
SHAPES = {
    "airway": (8, 64_102),
    "pasilla": (7, 14_599),
    "fission": (36, 7_039),
    "lcl3": (170, 13_140),
    "paul15": (2_660, 3_004),
    "paul15_240": (2_660, 240),
    "shoemaker500": (126, 500),
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "public"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    """No folder of data, and a cache of this test's own."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("EXPRESSWAY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_pair(paths):
    counts, obs = (pd.read_csv(path, index_col=0) for path in paths)
    return public.Table(counts.to_numpy().T, list(counts.index), obs)


@pytest.fixture
def small(served):
    """A data set of two genes and three samples, and its files at its public address."""
    folder, address = served
    counts = pd.DataFrame({"a": [1, 2], "b": [0, 5], "c": [3, 3]}, index=["x", "y"])
    counts.to_csv(folder / "counts.csv")
    (folder / "obs.csv").write_text("sample,dose\na,low\nb,none\nc,low\n")
    urls = [
        public.Address(f"{address}/{name}", sha256(folder / name))
        for name in ("counts.csv", "obs.csv")
    ]
    # The form that is written down in `content_digest`, by hand.
    text = "genes\nx\ny\nsamples\na\nb\nc\ndose\nlow\nnone\nlow\n"
    values = np.array([1, 2, 0, 5, 3, 3], "<i8").tobytes()
    return public.Dataset(
        name="small",
        files=("small_counts.csv", "small_obs.csv"),
        sha256=hashlib.sha256(text.encode() + values).hexdigest(),
        tidy=sources._columns(dose=("dose", ("none", "low"))),
        about={"source": "https://example.org", "licence": "CC0", "citation": "nobody"},
        addresses=tuple(urls),
        read=read_pair,
    )


def failure(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_comes_first_then_the_cache_then_the_address(small, served, monkeypatch, tmp_path):
    folder, _ = served
    found = public.get(small)
    assert list(found.obs["dose"].cat.categories) == ["none", "low"]
    assert found.uns["dataset"]["licence"] == "CC0"
    np.testing.assert_array_equal(found.X, [[1, 2], [0, 5], [3, 3]])
    for name in ("counts.csv", "obs.csv"):
        (folder / name).rename(folder / f"gone-{name}")
    again = public.get(small)  # from the cache: nothing is served any more
    np.testing.assert_array_equal(again.X, found.X)

    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("EXPRESSWAY_DATA", str(own))
    assert public.get(small).shape == (3, 2)  # a folder without its files
    (own / "small_obs.csv").write_bytes((folder / "gone-obs.csv").read_bytes())
    text = (folder / "gone-counts.csv").read_text()
    (own / "small_counts.csv").write_text(text.replace("x,1", "x,9"))
    message = failure(public.get, small)
    assert f"small in {own} is not the published data set: its content has SHA-256" in message
    (own / "small_counts.csv").write_text(text)
    np.testing.assert_array_equal(public.get(small).X, found.X)
    (own / "small_obs.csv").write_text("sample,amount\na,1\nb,2\nc,3\n")
    assert "its sample table has no 'dose'" in failure(public.get, small)
    (own / "small_obs.csv").write_text("sample,dose\na,low\nz,low\n")
    assert "small_counts.csv has no column z" in failure(public.get, small)
    (own / "small_obs.csv").write_text("")
    assert f"cannot read {own / 'small_counts.csv'} and small_obs.csv" in failure(public.get, small)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # pooch leaves a 404 open
def test_what_cannot_be_fetched_is_one_line(small, served):
    folder, address = served
    wrong = small._replace(addresses=(small.addresses[0]._replace(sha256="0" * 64),))
    message = failure(public.get, wrong)
    assert message.startswith("small cannot be had: small_counts.csv and small_obs.csv are not in")
    assert "does not match the known hash" in message
    assert message.endswith("set EXPRESSWAY_DATA to a folder that has these files")

    gone = small._replace(addresses=(public.Address(f"{address}/nothing.csv", "0" * 64),))
    assert f"{address}/nothing.csv: 404" in failure(public.get, gone)
    gc.collect()
    other = small._replace(sha256="0" * 64)
    assert "is not the published data set" in failure(public.get, other)
    nobody = public.Address("http://127.0.0.1:9/counts.csv", "0" * 64)  # the port of "discard"
    assert "counts.csv: no connection; " in failure(public.get, small._replace(addresses=(nobody,)))
    for name in ("paul15", "paul15_240"):
        assert "no public file of it can be fetched" in failure(getattr(datasets, name))
    (folder / "broken.tar.gz").write_bytes(b"nothing")
    assert "cannot read" in failure(public.member, folder / "broken.tar.gz", "x")
    with tarfile.open(folder / "good.tar.gz", "w:gz") as archive:
        archive.add(folder / "obs.csv", "p/obs.csv")
    assert public.member(folder / "good.tar.gz", r"/obs\.csv$")[0] == "p/obs.csv"
    assert "holds no file /counts" in failure(public.member, folder / "good.tar.gz", "/counts")


def test_addresses_are_complete():
    for name in NAMES:
        wanted = getattr(sources, name.upper())
        assert wanted.name == name
        digests = [wanted.sha256, *(one.sha256 for one in wanted.addresses)]
        assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
        assert all(one.url.startswith("https://") for one in wanted.addresses)
        assert {"title", "source", "licence", "citation"} == set(wanted.about)
        assert bool(wanted.addresses) == (wanted.read is not None)


@pytest.mark.parametrize("kind", ["experiment", "set", "frame"])
def test_tables_in_files_of_r(reference, kind):
    made = reference("rdata")
    content = base64.b64decode(made[kind])
    found = rdata.read(content, 4, ["strain", "minute", "id"], kind)
    scale = 4 if kind == "frame" else 1
    np.testing.assert_array_equal(found.values * scale, made["counts"])
    assert list(found.genes) == made["genes"]
    assert list(found.obs.index) == made["samples"]
    assert found.obs["strain"].tolist() == ["wt", "wt", "mut", "mut"]
    assert found.obs["minute"].tolist() == [0, 15, 0, 15]
    message = failure(rdata.read, content, 5, ["strain"], kind)
    assert message == f"{kind} holds no matrix of 5 samples with a table of strain"
    assert "with a table of dose" in failure(rdata.read, content, 4, ["dose"], kind)


def test_files_of_r_need_a_package(monkeypatch):
    message = failure(rdata.read, b"no file of R at all", 4, ["strain"], "x.RData")
    assert message.startswith("x.RData cannot be read as a file of R: ")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    message = failure(rdata.read, b"", 4, ["strain"], "x.RData")
    assert message == (
        'x.RData is a file of R, which needs the package rdata: pip install "expressway[datasets]"'
    )


@pytest.mark.parametrize("name", NAMES)
def test_published_data_in_a_folder(data, name, monkeypatch):
    monkeypatch.setenv("EXPRESSWAY_DATA", str(data))
    found = getattr(datasets, name)()
    assert found.shape == SHAPES[name]
    assert found.X.dtype.kind == ("f" if name == "shoemaker500" else "i")
    assert not found.obs.isna().any().any()
    assert public.content_digest(found) == found.uns["dataset"]["sha256"]


def test_levels_begin_with_the_reference(data, monkeypatch):
    monkeypatch.setenv("EXPRESSWAY_DATA", str(data))
    first = {"airway": ("dex", "untrt"), "pasilla": ("condition", "untreated")}
    for name, (column, level) in (first | {"fission": ("strain", "wt")}).items():
        assert getattr(datasets, name)().obs[column].cat.categories[0] == level


def test_public_files_of_airway_and_pasilla(data, served, monkeypatch):
    """The published files, made again to the byte: read as they would be at their addresses."""
    folder, address = served

    def write(name, text):
        (folder / name).write_text(text)
        return public.Address(f"{address}/{name}", sha256(folder / name))

    def lines(name):
        return gzip.decompress((data / name).read_bytes()).decode()

    obs = pd.read_csv(data / "airway_metadata.csv")
    obs["dex"] = obs["dex"].map({"untrt": "control", "trt": "treated"})
    obs.columns = ["id", "dex", "celltype", "geo_id"]
    urls = (
        write("airway_rawcounts.csv", "ens" + lines("airway_counts.csv.gz")),
        write("airway_metadata.csv", obs.to_csv(index=False)),
    )
    # The same bytes as at the public addresses, by the digests that others found there.
    assert [u.sha256 for u in urls] == [u.sha256 for u in sources.AIRWAY.addresses]
    assert public.get(sources.AIRWAY._replace(addresses=urls)).shape == SHAPES["airway"]

    text = ("gene_id" + lines("pasilla_counts.csv.gz").removeprefix("gene")).replace(",", "\t")
    counts = write("pasilla_gene_counts.tsv", text)
    # Published with pasilla 1.40.0's file by others; the tar archive is another here.
    assert counts.sha256 == "ea0dafbfcc600559644cfe7dd5cc8de809d631eb64ba3089aaa25c2fa0954dad"
    own = pd.read_csv(data / "pasilla_metadata.csv").sort_values("sample")
    own["sample"] += "fb"
    own.columns = ["file", "condition", "type", "number of lanes"]
    write("pasilla_sample_annotation.csv", own.to_csv(index=False))
    with tarfile.open(folder / "pasilla_1.30.0.tar.gz", "w:gz") as archive:
        for name in ("pasilla_gene_counts.tsv", "pasilla_sample_annotation.csv"):
            archive.add(folder / name, f"pasilla/inst/extdata/{name}")
    path = folder / "pasilla_1.30.0.tar.gz"
    url = public.Address(f"{address}/{path.name}", sha256(path))
    assert public.get(sources.PASILLA._replace(addresses=(url,))).shape == SHAPES["pasilla"]
