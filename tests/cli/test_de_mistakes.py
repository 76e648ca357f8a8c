"""Options of `expressway de` that cannot be, or not together: one line that says so."""

import numpy as np
import pandas as pd
import pytest

from expressway.models import deseq

DESIGN = ["--design", "~ batch + condition", "--contrast", "condition", "treated", "control"]


@pytest.fixture(autouse=True)
def no_fit(monkeypatch):
    """Each is found before anything is fitted, or compiled for it."""

    def fit(*_):
        pytest.fail("it was not refused before the fit")

    monkeypatch.setattr(deseq, "expect", lambda *_: None)
    monkeypatch.setattr(deseq, "fit", fit)


@pytest.fixture(scope="module")
def folder(adata, tmp_path_factory):
    """The counts and samples, and beside them files with something wrong."""
    found = tmp_path_factory.mktemp("files")
    adata.to_df().T.to_csv(found / "counts.csv")
    adata.obs.rename_axis("sample").to_csv(found / "samples.csv")
    ones = pd.DataFrame(np.ones((200, 8)), adata.var_names, adata.obs_names)
    ones.to_csv(found / "ones.csv")
    ones.drop("gene_7").to_csv(found / "short.csv")
    ones.drop(columns="sample_4").to_csv(found / "narrow.csv")
    ones.iloc[8, 1] = 0
    ones.to_csv(found / "zero.csv")
    (found / "controls.txt").write_text("gene_1\n")
    (found / "strangers.txt").write_text("gene_1\nnobody\n")
    (found / "empty.csv").write_text("")
    (found / "words.csv").write_text("mean,dispersion\n1,2\n3,much\n")
    (found / "other.csv").write_text("mu,alpha\n1,1\n")
    return found


# In braces: the folder.
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--reduced ~batch",
            "the reduced design '~batch' goes with the tests lrt and ql (--test lrt); Wald's test "
            "is of a contrast",
        ),
        (
            "--test lrt --reduced ~nothing",
            "the formula names column nothing, which the sample table does not have; it has "
            "condition, batch, size_factor",
        ),
        (
            "--test ql --reduced ~condition+batch",
            "reduced formula '~condition+batch' spans all columns of the design '~ batch + "
            "condition': nothing is left to test; leave the terms out of it that are to be tested",
        ),
        (
            "--test ql --lfc-threshold 1",
            "a threshold of fold changes goes with Wald's test, not with ql; leave it out",
        ),
        (
            "--test lrt --alternative less",
            "a threshold of fold changes goes with Wald's test, not with lrt; leave it out",
        ),
        (
            "--alternative lessAbs",
            "lfc_threshold must be above 0 for the alternative lessAbs, but is 0.0",
        ),
        (
            "--lfc-threshold inf",
            "lfc_threshold, a log2 fold change, must be 0 or above, but is inf",
        ),
        (
            "--influence conditional --lfc-threshold 1",
            "--influence conditional is about calls of Wald's test of no change, not of "
            "--lfc-threshold 1; leave one of the two out",
        ),
        (
            "--influence pipeline --alternative greater",
            "--influence pipeline is about calls of Wald's test of no change, not of "
            "--alternative greater; leave one of the two out",
        ),
        (
            "--influence conditional --test ql",
            "--influence conditional is about calls of Wald's test of no change, not of --test "
            "ql; leave one of the two out",
        ),
        (
            "--each batch batch_1 --test lrt",
            "--each batch batch_1 is by Wald's test, not by --test lrt; leave one of the two out, "
            "or name each contrast with --also",
        ),
        (
            "--groups condition=treated dose=high",
            "dose is not a factor of the design ~ batch + condition, whose factors are batch, "
            "condition; of a covariate, name the coefficient",
        ),
        (
            "--groups condition=treated treated",
            "group 'treated' cannot be read: needs FACTOR=LEVEL,LEVEL, several with spaces "
            "between (strain=wt minute=120,180), or all",
        ),
        (
            "--minus nothing",
            "no coefficient is named nothing; there are Intercept, batch[T.batch_2], "
            "condition[T.treated]",
        ),
        (
            "--plus Intercept --minus Intercept",
            "contrast of lists: coefficient Intercept is named twice; name it once, or give one "
            "weight a coefficient",
        ),
        (
            "--within lane",
            "there is no column 'lane' in obs; the columns are condition, batch, size_factor",
        ),
        *(
            (
                f"--within batch --figures png {option}",
                f"--within batch gives a table for each group, without {said}; leave it out, or "
                "analyse one group at a time",
            )
            for option, said in (
                ("--shrink normal", "--shrink"),
                ("--report", "--report"),
                ("--figures svg", "--figures"),
                ("--also 0,1,1", "a second contrast"),
            )
        ),
        ("--figures png,gif", "--figures png,gif: gif is none of png, pdf, svg"),
        (
            "--trend {}/none.csv",
            "--trend {}/none.csv: needs parametric, local, mean or a file of means and dispersions",
        ),
        (
            "--trend {}/empty.csv",
            "--trend {}/empty.csv: cannot be read as a table (Could not determine delimiter)",
        ),
        (
            "--trend {}/other.csv",
            "--trend {}/other.csv: needs the columns mean and dispersion; it has mu, alpha",
        ),
        (
            "--trend {}/words.csv",
            "--trend {}/words.csv: dispersion much in row 2; needed are positive numbers",
        ),
        (
            "--offsets {}/short.csv",
            "{}/short.csv: 1 of the 200 genes are not in it (gene_7; it has gene_1, gene_2, "
            "gene_3, …); give a row and a column for each",
        ),
        (
            "--weights {}/narrow.csv",
            "{}/narrow.csv: 1 of the 8 samples are not in it (sample_4; it has sample_1, "
            "sample_2, sample_3, …); give a row and a column for each",
        ),
        ("--offsets {}/none.csv", "{}/none.csv: no such file"),
        (
            "--offsets {}/zero.csv",
            "adata.layers['offsets']: gene gene_9, sample sample_2: 0 (1 such); every value must "
            "be finite and above 0",
        ),
        (
            "--control-genes {}/strangers.txt",
            "{}/strangers.txt: 1 of its 2 genes are not in the counts (nobody); name genes of "
            "the counts, one a line",
        ),
        (
            "--size-factors iterate --weights {}/ones.csv",
            "size factors by iteration take no 'weights': leave it out, or take size factors "
            "ratio or poscounts",
        ),
        (
            "--size-factors poscounts --size-factors-column size_factor",
            "size factors are in column 'size_factor' and to be estimated by poscounts; give one "
            "of the two",
        ),
        (
            "--size-factors-column size_factor --control-genes {}/controls.txt",
            "size factors are in column 'size_factor', so control genes have no use; give one of "
            "the two",
        ),
        (
            "--cooks-cutoff 0",
            "cooks_cutoff must be above 0 (inf: no count is an outlier), but is 0.0",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, line, folder, refused, tmp_path):
    words = options.replace("{}", str(folder)).split()
    tables = (folder / "counts.csv", folder / "samples.csv")
    said = refused(*tables, *DESIGN, "--out", tmp_path / "out", *words)
    assert said == line.replace("{}", str(folder))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--test", "t"), ("--alternative", "more"), ("--shrink", "ashr"), ("--tables", "tsv")],
)
def test_a_word_that_is_no_choice_is_refused(option, value, run):
    result = run("counts.csv", *DESIGN, "--out", "out", option, value)
    assert result.exit_code == 2
    assert f"Error: Invalid value for '{option}': " in result.stderr
    assert f"'{value}' is not one of" in result.stderr
