"""Rendering: the same bytes every time, and never over somebody's hand edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shopfds_ops.errors import RenderError
from shopfds_ops.files import write_atomically
from shopfds_ops.render import Change, Output, Source, render, sources_in, templates_folder
from shopfds_ops.settings import MANIFEST, Settings

FILES = {"a/one.conf": b"one = 1\n", "b/two.conf": b"two = 2\n"}
LATER = {"a/one.conf": b"one = 1\n", "b/two.conf": b"two = 3\n"}


def kinds(changes: list[Change]) -> dict[str, str]:
    return {change.path: change.kind for change in changes}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    made = Output(tmp_path / "infrastructure")
    made.write(FILES)
    return made


# -- templates ---------------------------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_bytes() -> None:
    variables = {"settings": Settings(), "purposes": {"A": "first", "B": "second"}}
    sources = [Source("docker/.env.example.j2", "docker/.env.example", variables)]
    assert render(sources) == render(sources)


def test_a_missing_variable_is_an_error_that_names_the_template() -> None:
    with pytest.raises(RenderError) as caught:
        render([Source("postgres/master.conf.j2", "x", {})])
    assert "postgres/master.conf.j2" in caught.value.what
    assert "settings" in caught.value.what


def test_a_missing_attribute_is_an_error_too() -> None:
    with pytest.raises(RenderError):
        render([Source("docker/.env.example.j2", "x", {"settings": object(), "purposes": {}})])


def test_a_template_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RenderError, match=r"no/such\.j2"):
        render([Source("no/such.j2", "x", {})])


def test_parts_that_others_include_are_not_rendered_themselves() -> None:
    names = {Path(source.target).name for source in sources_in("postgres", "postgres", {})}
    assert (templates_folder() / "postgres" / "_common.conf.j2").is_file()
    assert not any(name.startswith("_") for name in names)
    assert {"master.conf", "replica.conf", "pg_hba.conf"} <= names


# -- writing -----------------------------------------------------------------------------------------------------


def test_the_first_time_everything_is_new_and_the_second_time_nothing_is_touched(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    assert set(kinds(output.compare(FILES)).values()) == {"new"}
    assert not output.folder.exists()
    output.write(FILES)
    before = {path: path.stat().st_mtime_ns for path in output.folder.rglob("*")}
    assert set(kinds(output.write(FILES)).values()) == {"same"}
    assert {path: path.stat().st_mtime_ns for path in output.folder.rglob("*")} == before


def test_a_file_of_ours_is_replaced_and_the_diff_shows_both(output: Output) -> None:
    [changed] = [change for change in output.compare(LATER) if change.kind != "same"]
    assert (changed.path, changed.kind) == ("b/two.conf", "changed")
    assert "-two = 2" in changed.diff
    assert "+two = 3" in changed.diff
    output.write(LATER)
    assert tree(output.folder)["b/two.conf"] == b"two = 3\n"
    assert set(kinds(output.compare(LATER)).values()) == {"same"}


def test_comparing_writes_nothing(output: Output) -> None:
    before = tree(output.folder)
    output.compare(LATER)
    assert tree(output.folder) == before


def test_a_hand_edit_is_shown_and_kept_however_often_we_write(output: Output) -> None:
    edited = output.folder / "b/two.conf"
    edited.write_text("two = 99  # mine\n")
    for rendered in (FILES, LATER, LATER, FILES):
        changes = output.write(rendered)
        assert kinds(changes)["b/two.conf"] == "edited"
        assert edited.read_text() == "two = 99  # mine\n"


def test_a_hand_edit_that_is_taken_back_is_ours_again(output: Output) -> None:
    edited = output.folder / "b/two.conf"
    edited.write_text("two = 99\n")
    output.write(LATER)
    edited.write_bytes(FILES["b/two.conf"])
    assert kinds(output.write(LATER))["b/two.conf"] == "changed"
    assert edited.read_bytes() == LATER["b/two.conf"]


def test_a_hand_edit_that_says_what_we_would_is_no_edit(output: Output) -> None:
    (output.folder / "b/two.conf").write_bytes(LATER["b/two.conf"])
    assert kinds(output.write(LATER))["b/two.conf"] == "same"


def test_force_replaces_a_hand_edit_and_keeps_it_beside(output: Output) -> None:
    edited = output.folder / "b/two.conf"
    edited.write_text("mine\n")
    output.write(LATER, force=True)
    assert edited.read_bytes() == LATER["b/two.conf"]
    assert (output.folder / "b/two.conf.edited").read_text() == "mine\n"
    assert set(kinds(output.compare(LATER)).values()) == {"same"}


def test_a_file_that_was_there_before_us_counts_as_somebody_elses(tmp_path: Path) -> None:
    file = tmp_path / "a/one.conf"
    file.parent.mkdir()
    file.write_text("not ours\n")
    assert kinds(Output(tmp_path).write(FILES))["a/one.conf"] == "edited"
    assert file.read_text() == "not ours\n"


def test_an_orphan_is_listed_and_removed(output: Output) -> None:
    rest = {"a/one.conf": FILES["a/one.conf"]}
    assert kinds(output.compare(rest)) == {"a/one.conf": "same", "b/two.conf": "orphan"}
    output.write(rest)
    assert not (output.folder / "b").exists(), "nor the folder that is empty now"
    assert kinds(output.compare(rest)) == {"a/one.conf": "same"}


def test_an_orphan_that_somebody_edited_stays(output: Output) -> None:
    (output.folder / "b/two.conf").write_text("mine\n")
    output.write({"a/one.conf": FILES["a/one.conf"]})
    assert (output.folder / "b/two.conf").read_text() == "mine\n"


def test_an_empty_orphan_is_removed_like_any_other(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write({"empty": b""})
    assert kinds(output.write({})) == {"empty": "orphan"}
    assert not (tmp_path / "empty").exists()


def test_a_file_that_somebody_removed_is_written_again(output: Output) -> None:
    (output.folder / "b/two.conf").unlink()
    assert kinds(output.write(FILES))["b/two.conf"] == "new"
    assert (output.folder / "b/two.conf").read_bytes() == FILES["b/two.conf"]


# -- interruptions -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["files", "version", "x"]), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_with_a_broken_manifest_nothing_that_differs_is_overwritten(tmp_path: Path, manifest: bytes) -> None:
    output = Output(tmp_path)
    output.write(FILES)
    (tmp_path / MANIFEST).write_bytes(manifest)
    (tmp_path / "b/two.conf").write_text("mine\n")
    changes = output.write(LATER)
    assert kinds(changes)["b/two.conf"] == "edited"
    assert (tmp_path / "b/two.conf").read_text() == "mine\n"
    (tmp_path / "b/two.conf").unlink()


def test_killed_between_the_files_and_the_manifest_the_next_run_finishes(output: Output) -> None:
    old = (output.folder / MANIFEST).read_bytes()
    output.write(LATER)
    (output.folder / MANIFEST).write_bytes(old)
    assert set(kinds(output.write(LATER)).values()) == {"same"}
    assert (output.folder / MANIFEST).read_bytes() != old
    assert kinds(output.write(FILES))["b/two.conf"] == "changed"


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(RenderError, match="cannot be written"):
        Output(tmp_path / "out").write(FILES)


def test_a_folder_in_the_place_of_a_file_is_an_error_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a/one.conf/inside").mkdir(parents=True)
    with pytest.raises(RenderError):
        Output(tmp_path).write(FILES)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one.conf"]


# -- atomic files ------------------------------------------------------------------------------------------------


def test_an_atomic_write_sets_content_and_mode(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    for content, mode in ((b"one", 0o600), (b"two", 0o644)):
        write_atomically(target, content, mode=mode)
        assert target.read_bytes() == content
        assert target.stat().st_mode & 0o777 == mode
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", [{"content": "text, not bytes"}, {"owner": ("nobody", 0)}])
def test_a_failed_atomic_write_keeps_the_old_content_and_leaves_nothing_behind(
    tmp_path: Path, broken: Mapping[str, object]
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    arguments: dict[str, object] = {"content": b"new", "mode": 0o600, **broken}
    with pytest.raises((TypeError, OSError)):
        write_atomically(target, **arguments)  # type: ignore[arg-type]
    assert tree(tmp_path) == {"file": b"old"}


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "link", b"ours", mode=0o600)
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()
