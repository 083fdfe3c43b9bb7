"""The systemd unit that is installed: the documented one, and one that systemd understands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from support.programs import need, run

ROOT = Path(__file__).resolve().parent.parent
UNIT = (ROOT / "contrib" / "phantom-server.service").read_text()
PAGE = (ROOT / "doc" / "operation.md").read_text()


def test_the_documentation_shows_the_unit_as_it_is() -> None:
    assert f"```ini\n{UNIT}```\n" in PAGE


def test_it_starts_what_the_documentation_installs() -> None:
    [made] = re.findall(r"^(/\S+) init server --output (\S+)$", PAGE, re.MULTILINE)
    started = [shlex.split(line) for line in re.findall(r"^ExecStart\w*=(.*)$", UNIT, re.MULTILINE)]
    assert len(started) == 2
    for words in started:
        assert Path(words[0]).parent == Path(made[0]).parent
        assert words[-1] == made[1]


@pytest.mark.slow
def test_systemd_understands_it(tmp_path: Path) -> None:
    need("systemd-analyze")
    programs = Path(sys.executable).parent
    unit = tmp_path / "phantom-server.service"

    def verify(text: str) -> str:
        unit.write_text(text.replace("/opt/phantom/bin", str(programs)))
        done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
        return (done.stdout + done.stderr).decode() + ("" if done.returncode == 0 else "failed")

    assert verify(UNIT) == ""
    assert "LimitNOFLE" in verify(UNIT.replace("LimitNOFILE", "LimitNOFLE"))
