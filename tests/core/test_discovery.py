from __future__ import annotations

from merkhet.core import discovery


def test_packages_and_their_parts_are_found_by_looking() -> None:
    names = discovery.package_names()
    assert {"core", "data", "models", "training", "report", "stability", "audit"} <= set(names)
    commands = discovery.parts("commands")
    assert commands["audit"].__name__ == "merkhet.audit.commands"
    assert "core" not in commands
    assert discovery.parts("no_such_part") == {}
