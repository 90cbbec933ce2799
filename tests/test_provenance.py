"""What files and figures say of where they come from."""

import datetime
import re
import subprocess

import pytest

import matfill
from matfill import provenance
from matfill.provenance import source_version, today


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout, as far as the version can tell."""
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(matfill, "__file__", str(tmp_path / "matfill" / "__init__.py"))
    return tmp_path


def test_a_checkout_names_its_commit(checkout, monkeypatch):
    asked = []

    def git(command, **options):
        asked.append((command[0], options["cwd"]))
        return subprocess.CompletedProcess(command, 0, "0123456789ab\n", "")

    monkeypatch.setattr(provenance.subprocess, "run", git)
    assert source_version() == f"{matfill.__version__} (0123456789ab)"
    assert asked == [("git", checkout)]


def test_where_git_refuses_only_the_version_is_known(checkout, monkeypatch):
    refused = subprocess.CompletedProcess([], 128, "", "fatal: detected dubious ownership")
    monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: refused)
    assert source_version() == matfill.__version__


def test_the_code_under_test_has_a_version():
    assert re.fullmatch(re.escape(matfill.__version__) + r"( \([0-9a-f]{12}\))?", source_version())


def test_a_machine_without_git_has_a_version(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert source_version() == matfill.__version__


def test_outside_of_a_checkout_git_is_not_asked(checkout, monkeypatch):
    (checkout / ".git").rmdir()
    monkeypatch.setattr(provenance.subprocess, "run", None)
    assert source_version() == matfill.__version__


def test_the_day_is_that_of_utc():
    before = datetime.datetime.now(datetime.UTC).date()
    assert before <= datetime.date.fromisoformat(today()) <= datetime.datetime.now(datetime.UTC).date()
