"""Browsers that can be had, browsers that cannot, and how old they are."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from phantom.core.browser_profiles import age_of, age_warning, parse_profile, preset_for
from phantom.core.ech import parse_ech
from phantom.errors import ConfigurationError

PRESETS = ["chrome:131", "chrome:99", "chrome:152", "chrome:stable"]


@pytest.mark.parametrize("name", ["firefox", "Safari", "edge", "ios", "android", "firefox:120"])
def test_others_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no honest") as caught:
        parse_profile(name)
    assert len(caught.value.problem) > 60 and caught.value.fix


@pytest.mark.parametrize("name", ["", "lynx", "chrome:", "chrome:stable", "chromium", "chrome 131"])
def test_no_profiles(name: str) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        parse_profile(name)


def test_which_preset_is_taken() -> None:
    assert preset_for(parse_profile(" Chrome "), PRESETS, max) == "chrome:152"
    assert preset_for(parse_profile("chrome:131"), PRESETS, max) == "chrome:131"
    offered: list[str] = []

    def choose(names: object) -> str:
        offered.extend(names)  # type: ignore[call-overload]
        return offered[0]

    assert preset_for("random", PRESETS, choose) == "chrome:99"
    assert offered == ["chrome:99", "chrome:131", "chrome:152"]
    with pytest.raises(ConfigurationError, match="chrome:98"):
        preset_for("chrome:98", PRESETS, max)
    with pytest.raises(ConfigurationError):
        preset_for("random", [], max)


def test_ages() -> None:
    """Chrome 131 came on 12 November 2024, and 156 was current on 1 November 2026."""
    day = datetime(2024, 11, 12, tzinfo=UTC)
    assert age_of("chrome:131", day.timestamp()) == timedelta(0)
    age = age_of("chrome:156", datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    assert timedelta(0) < age < timedelta(weeks=8)
    now = day + timedelta(days=239)
    assert age_warning("chrome:131", now.timestamp()) is None
    warning = age_warning("chrome:131", (now + timedelta(days=2)).timestamp())
    assert warning is not None and "Chrome 131" in warning and "8 months" in warning


def config(version: int = 0xFE0D, body: bytes = b"abc") -> bytes:
    one = version.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body
    return len(one).to_bytes(2, "big") + one


def test_ech_lists() -> None:
    assert parse_ech(base64.b64encode(config()).decode()) == config()
    for bad in (b"", config()[:-1], config() + b"x", b"\0\0", config(0xFE0A), b"\0\3abc"):
        with pytest.raises(ConfigurationError):
            parse_ech(base64.b64encode(bad).decode())
    with pytest.raises(ConfigurationError, match="base64"):
        parse_ech("***")
