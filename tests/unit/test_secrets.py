"""Secrets: made once, kept closed, never overwritten, never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shopfds_ops import secrets
from shopfds_ops.errors import SecretsError
from shopfds_ops.secrets import PURPOSES, load, open_to_others, present, read

ALL = ("postgres", "redis", "rabbitmq")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_they_are_generated_once_and_only_the_owner_may_read_them(file: Path) -> None:
    first = load(file, needed_by=())
    written = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not open_to_others(file)
    again = load(file, needed_by=())
    assert again.values == first.values
    assert file.read_bytes() == written


def test_the_umask_does_not_open_them(file: Path) -> None:
    before = os.umask(0)
    try:
        load(file, needed_by=())
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600


def test_generated_values_are_long_distinct_and_new_for_every_stack(tmp_path: Path) -> None:
    one = load(tmp_path / "one", needed_by=()).values
    two = load(tmp_path / "two", needed_by=()).values
    everything = [*one.values(), *two.values()]
    assert len(set(everything)) == 2 * len(PURPOSES)
    assert all(len(value) >= 32 and value.isascii() for value in everything)


def test_no_value_shows_in_repr_or_str(file: Path) -> None:
    made = load(file, needed_by=())
    shown = f"{made!r} {made} {[made]}"
    assert not any(value in shown for value in made.values.values())


def test_a_value_that_the_user_set_is_kept(file: Path) -> None:
    file.write_text("POSTGRES_PASSWORD=mine-and-only-mine\n")
    made = load(file, needed_by=())
    assert made["POSTGRES_PASSWORD"] == "mine-and-only-mine"
    assert file.read_text().startswith("POSTGRES_PASSWORD=mine-and-only-mine\n")
    assert file.read_text().count("POSTGRES_PASSWORD=") == 1


def test_a_dollar_in_a_value_is_taken_literally(file: Path) -> None:
    file.write_text("REDIS_APP_PASSWORD='a${HOME}b$c'\n")
    assert load(file, needed_by=())["REDIS_APP_PASSWORD"] == "a${HOME}b$c"


def test_lines_that_are_not_ours_are_kept(file: Path) -> None:
    foreign = "# a note\nSLACK_WEBHOOK=https://example.org/x?y=1\n\nexport OTHER='two words'\n"
    file.write_text(foreign)
    load(file, needed_by=())
    assert file.read_text().startswith(foreign.rstrip("\n"))


def test_the_example_copied_but_not_filled_in_counts_as_missing(file: Path) -> None:
    file.write_text("".join(f"{name}=\n" for name in PURPOSES))
    assert present(file) == frozenset()
    made = load(file, needed_by=())
    assert load(file, needed_by=ALL).values == made.values
    assert present(file) == frozenset(PURPOSES)


@pytest.mark.parametrize("name", PURPOSES)
def test_one_that_is_missing_while_data_exist_is_an_error_and_nothing_is_written(file: Path, name: str) -> None:
    load(file, needed_by=())
    kept = "".join(line for line in file.read_text().splitlines(keepends=True) if not line.startswith(f"{name}="))
    file.write_text(kept)
    with pytest.raises(SecretsError) as caught:
        load(file, needed_by=ALL)
    assert name in caught.value.what
    assert caught.value.remedy
    assert file.read_text() == kept
    assert present(file) == frozenset(PURPOSES) - {name}


def test_no_file_at_all_while_data_exist_is_an_error(file: Path) -> None:
    with pytest.raises(SecretsError):
        load(file, needed_by=ALL)
    assert not file.exists()
    assert present(file) == frozenset()


def test_an_error_never_carries_a_value(file: Path) -> None:
    file.write_text("POSTGRES_PASSWORD=do-not-show-me\n")
    with pytest.raises(SecretsError) as caught:
        load(file, needed_by=ALL)
    assert "do-not-show-me" not in f"{caught.value.what}{caught.value.remedy}{caught.value.details}"


def test_a_file_that_is_no_text_is_refused_and_kept(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SecretsError, match="cannot be read"):
        load(file, needed_by=())
    with pytest.raises(SecretsError, match="cannot be read"):
        present(file)
    assert file.read_bytes() == b"\xff\xfe\x00"


def test_a_folder_in_its_place_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(SecretsError):
        load(file, needed_by=())


def test_a_file_that_others_may_read_is_noticed(file: Path) -> None:
    load(file, needed_by=())
    file.chmod(0o640)
    assert open_to_others(file)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(foreign=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=80))
def test_beside_any_foreign_text_the_same_secrets_are_found_again(file: Path, foreign: str) -> None:
    file.write_text(foreign)
    made = load(file, needed_by=())
    assert secrets.load(file, needed_by=ALL).values == made.values
    assert not foreign.strip() or file.read_text().startswith(foreign.rstrip("\n"))


def test_a_secret_is_made_for_a_server_without_data_while_others_have_some(file: Path) -> None:
    made = load(file, needed_by=())
    kept = "".join(line for line in file.read_text().splitlines(keepends=True) if not line.startswith("RABBITMQ_"))
    file.write_text(kept)
    again = load(file, needed_by=("postgres", "redis"))
    assert {n: v for n, v in again.values.items() if n != "RABBITMQ_PASSWORD"} == {
        n: v for n, v in made.values.items() if n != "RABBITMQ_PASSWORD"
    }
    assert again["RABBITMQ_PASSWORD"] != made["RABBITMQ_PASSWORD"]


def test_reading_generates_nothing(file: Path) -> None:
    with pytest.raises(SecretsError, match="lacks"):
        read(file)
    assert not file.exists()
    made = load(file, needed_by=())
    assert read(file).values == made.values


def test_every_secret_names_the_server_that_needs_it() -> None:
    assert {name.split("_")[0].lower() for name in PURPOSES} == set(ALL)
