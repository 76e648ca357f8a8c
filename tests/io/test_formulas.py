"""Formulas of others run nothing."""

import pytest

from expressway import io
from expressway.io.agreement import Column, of_columns
from expressway.io.formulas import refuse_code


@pytest.mark.parametrize(
    "formula",
    [
        "~ study + gender",
        "~ strain * C(minute)",
        "~ 0 + a:b + np.log(age) + log2(age + 1) - 1",
        "~ C(dose, contr.treatment('low')) + C(dose, levels=['low', 'high'])",
        "~ C(dose, contr.sum)",
        "~ I(age ** 2) + {age / 10} + Q('a column')",
        "~ bs(age, df=4) + scale(age)",
        "~ `a column` + b",
    ],
)
def test_transforms_pass(formula):
    refuse_code(formula)


@pytest.mark.parametrize(
    "formula",
    [
        "~ {condition.to_csv('rows.csv') or age}",
        "~ C(condition.map(print))",
        "~ {condition.__class__}",
        "~ I(open('/etc/passwd').read())",
        "~ I(__import__('os').system('id'))",
        "~ np.load('x')",
        "~ np.log.__class__(age)",
        "~ {[x for x in age]}",
        "~ {(lambda: 0)()}",
        "~ {age[0]}",
        "~ {f'{age}'}",
        "~ {age if age else b}",
        "~ {log}(age)",
        "~ I(contr.treatment.__init__)",
        "~ {(y := age)}",
        "~ a +",
        "~ log(",
    ],
)
def test_code_does_not(formula):
    for refuse in (refuse_code, lambda text: of_columns({"age": Column(True, ())}, text, {})):
        with pytest.raises(io.InputError) as caught:
            refuse(formula)
        assert "\n" not in str(caught.value)
