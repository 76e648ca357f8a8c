import json
import stat

import pytest

pytest.importorskip("nvflare")

from loopback import ADMINISTRATOR, CLASSES, project

from expressway._errors import InputError
from expressway.run import kits, participants
from expressway.run.kits import Kit


def test_kits_are_closed_and_say_whose_they_are(tmp_path, capfd):
    out = tmp_path / "kits"
    found = kits.provision(project("south", "north"), out)
    assert capfd.readouterr() == ("", "")
    assert sorted(found) == [ADMINISTRATOR, "localhost", "north", "south"]
    assert [path.name for path in tmp_path.iterdir()] == ["kits"]
    for path in (out, *out.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    one = kits.read_kit(found["north"], "site")
    assert one == Kit(out / "north", "site", "north", "trial", "localhost", ("north", "south"))
    assert kits.read_kit(found[ADMINISTRATOR], "administrator").name == ADMINISTRATOR
    key = (out / "authority" / "root.key").read_text()
    assert key.startswith("-----BEGIN")
    for folder in found.values():
        assert all(key not in p.read_text() for p in folder.rglob("*") if p.is_file())
    for name, line in (("north", CLASSES.site), ("localhost", CLASSES.coordinator)):
        kits.prepare(found[name], classes=CLASSES)
        text = (found[name] / "local" / "resources.json").read_text()
        assert json.loads(text)["class_allow_list"] == [line]
        assert "/tmp/nvflare" not in text
    with pytest.raises(InputError, match=r"kits is there; rename it, or name a folder"):
        kits.provision(project("south", "north"), out)
    with pytest.raises(InputError, match=r"kits is there; rename it, or name a folder"):
        kits.provision(project("south", "north", "east", ports=(1, 2)), out)


def test_a_kit_has_what_is_needed_and_says_what_it_is(tmp_path):
    found = kits.provision(project("south", "north"), tmp_path / "kits")
    shared = {"readme.txt", "local/roster.json", "startup/rootCA.pem"}
    written = {f"local/{name}.json" for name in ("resources", "authorization", "log_config")}
    client = {"startup/client.crt", "startup/client.key"}
    server = {"startup/server.crt", "startup/server.key"}
    expected = {
        "north": shared | written | client | {"startup/fed_client.json"},
        "localhost": shared | written | server | {"startup/fed_server.json"},
        ADMINISTRATOR: shared | client | {"startup/fed_admin.json"},
    }
    starts = {"north": "site KIT", "localhost": "coordinator KIT", ADMINISTRATOR: "run KIT"}
    for name, files in expected.items():
        kit = found[name]
        assert {str(path.relative_to(kit)) for path in kit.rglob("*") if path.is_file()} == files
        text = (kit / "readme.txt").read_text()
        assert text.startswith(f"trial: kit of {name} (")
        assert f"expressway federated {starts[name]}" in text
        assert ("local/resources.json" in text) == (name != ADMINISTRATOR)
        assert f"startup/{'server' if name == 'localhost' else 'client'}.key" in text
        assert all(len(line) <= 100 for line in text.splitlines())


def test_a_site_is_added_later(tmp_path):
    out = tmp_path / "kits"
    kits.provision(project("south", "north"), out)
    before = {path: path.read_bytes() for path in out.rglob("*.crt")}
    found = kits.provision(project("south", "north", "east"), out)
    assert list(found) == ["east"]
    assert all(path.read_bytes() == data for path, data in before.items())
    roots = {path.read_bytes() for path in out.rglob("rootCA.pem")}
    assert len(roots) == 1
    assert kits.read_kit(out / "north", "site").sites == ("east", "north", "south")
    with pytest.raises(InputError, match="is there; rename it"):
        kits.provision(project("south", "north", "east"), out)


def test_a_kit_of_another_role_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no kit .*name the folder of a site's kit"):
        kits.read_kit(tmp_path, "site")
    with pytest.raises(InputError, match="is no kit"):
        participants.start(tmp_path)
    out = kits.provision(project("south", "north"), tmp_path / "kits")
    with pytest.raises(InputError, match="is the kit of north, a site; needed is a coordinator's"):
        kits.read_kit(out["north"], "coordinator")
    with pytest.raises(InputError, match="is an administrator's kit"):
        participants.start(out[ADMINISTRATOR])
