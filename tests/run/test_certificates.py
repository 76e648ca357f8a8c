"""A site's key is its own: signed with its certificate, of the authority of all sites."""

import pytest
from authority import Authority

from expressway._errors import InputError
from expressway.run import ProtocolError
from expressway.run.certificates import Certified


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder / "ours"), Authority(folder / "theirs")


@pytest.fixture(scope="module")
def sites(authorities):
    ours, theirs = authorities
    files = {"north": ours.files("north"), "south": ours.files("south")}
    files["stranger"] = theirs.files("north")
    return {name: Certified(*paths) for name, paths in files.items()}


def test_a_signature_is_its_sites_and_its_messages(sites):
    signed = sites["north"].sign(b"key")
    sites["south"].check("north", b"key", signed)
    cases = {
        "has the certificate of north; the coordinator mixed them up": ("south", b"key", signed),
        "is not signed by it; do not go on": ("north", b"other key", signed),
        "has a certificate of another authority": (
            "north",
            b"key",
            sites["stranger"].sign(b"key"),
        ),
    }
    forged = signed._replace(signature=sites["south"].sign(b"key").signature)
    broken = signed._replace(certificate=b"no certificate")
    cases["is not signed by it"] = ("north", b"key", forged)
    cases["of another authority; is it of the same project"] = ("north", b"key", broken)
    for says, (name, message, one) in cases.items():
        with pytest.raises(ProtocolError, match=says):
            sites["south"].check(name, message, one)


def test_files_of_two_kits_are_refused(authorities):
    ours, theirs = authorities
    certificate, key, root = ours.files("east")
    other = ours.files("west")[1]
    with pytest.raises(InputError, match="is not the private key of"):
        Certified(certificate, other, root)
    with pytest.raises(InputError, match="are no certificate, its key and their root"):
        Certified(certificate, key, theirs.root)
    with pytest.raises(InputError, match=r"nothing\.key is missing"):
        Certified(certificate, key.with_name("nothing.key"), root)
