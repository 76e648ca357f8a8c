import pytest

pytest.importorskip("nvflare")

from expressway._errors import InputError
from expressway.run import projects
from expressway.run.projects import Member

FILE = """
name: trial
coordinator: {name: coordinator.example.org, organization: institute}
administrator: {name: admin@example.org, organization: institute}
sites:
  - {name: north, organization: hospital_a}
  - {name: south, organization: hospital_b}
"""


def test_a_project_is_read(tmp_path):
    path = tmp_path / "project.yml"
    path.write_text(FILE)
    found = projects.read_project(path)
    assert found.sites == (Member("north", "hospital_a"), Member("south", "hospital_b"))
    assert (found.port, found.admin_port) == (8102, 8103)
    path.write_text(FILE.replace("org, organization", "org, port: 9000, organization", 1))
    assert projects.read_project(path).port == 9000


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: trial", "name: [", "is no YAML"),
        (FILE, "trial", "a project is 'trial'; needed are its keys name, coordinator"),
        ("name: trial", "", "a project has no 'name'"),
        ("name: trial", "name: ../trial", "name is '../trial'; needed is letters"),
        ("name: trial", "name: trial\nrounds: 3", "unknown key 'rounds'; its keys are name, "),
        ("north, organization: hospital_a", "north", "a site has no 'organization'"),
        ("  - {name: south, organization: hospital_b}", "", "fewer than two sites"),
        ("south", "North", "the name 'north' is taken"),
        ("south", "server", "the name 'server' is taken"),
        ("south", "south pole", "site name is 'south pole'; needed is letters, digits, - and _"),
        ("south", "7", "site name is 7; needed is letters"),
        ("hospital_a", "hospital-a", "organization of the site is 'hospital-a'"),
        ("admin@example.org", "admin", "administrator name is 'admin'; needed is an address"),
        ("coordinator.example.org", "-x-", "coordinator name is '-x-'; needed is the name of a"),
        ("example.org, org", "example.org, port: 8103, org", "ports are 8103 and 8103"),
        ("example.org, org", "example.org, port: true, org", "ports are True and 8103"),
    ],
)
def test_a_mistake_in_a_project_is_one_line(tmp_path, old, new, says):
    path = tmp_path / "project.yml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        projects.read_project(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_project_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none.yml cannot be read \(No such file"):
        projects.read_project(tmp_path / "none.yml")
