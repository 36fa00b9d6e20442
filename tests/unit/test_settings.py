"""Settings: where a value comes from, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shopfds_ops import settings
from shopfds_ops.errors import ConfigError, ShopfdsError, UnknownNameError
from shopfds_ops.settings import CONFIG_FILE, Ports, find_project, known_keys, load, set_value


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("SHOPFDS_"):
            monkeypatch.delenv(name)
    yield


def write(project: Path, text: str) -> Path:
    file = project / CONFIG_FILE
    file.write_text(text)
    return file


# -- layers ------------------------------------------------------------------------------------------------------


def test_without_a_file_every_value_is_a_default(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert {origin for _, _, origin in found.entries()} == {"default"}
    assert found.settings.ports.redis == 7000


def test_each_layer_overrides_the_one_before_and_is_named_as_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "engine = 'docker'\n[ports]\noffset = 1\nredis = 7100\n[redis]\nmemory = 500\n")
    monkeypatch.setenv("SHOPFDS_PORTS__OFFSET", "2")
    monkeypatch.setenv("SHOPFDS_ENGINE", "local")
    found = load(tmp_path, {"engine": "auto"})
    shown = {key: (value, origin) for key, value, origin in found.entries()}
    assert shown["engine"] == ("auto", "flag")
    assert shown["ports.offset"] == (2, "environment")
    assert shown["ports.redis"] == (7100, "file")
    assert shown["redis.memory"] == (500, "file")
    assert shown["timeout"] == (120.0, "default")


def test_entries_hold_every_known_key_once(tmp_path: Path) -> None:
    keys = [key for key, _, _ in load(tmp_path).entries()]
    assert keys == list(known_keys())
    assert len(keys) == len(set(keys))


def test_a_section_given_as_json_in_the_environment_names_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFDS_PORTS", '{"offset": 7}')
    found = load(tmp_path)
    assert found.settings.ports.offset == 7
    assert found.origins["ports.offset"] == "environment"


def test_an_empty_environment_variable_counts_as_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPFDS_ENGINE", "")
    assert load(tmp_path).settings.engine == "auto"


def test_settings_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    loaded = load(tmp_path).settings
    with pytest.raises(ValueError, match="frozen"):
        loaded.engine = "docker"
    with pytest.raises(ValueError, match="frozen"):
        loaded.ports.offset = 3


# -- refusals ----------------------------------------------------------------------------------------------------


def test_an_unknown_key_in_the_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "[ports]\nofset = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "ports.ofset" in caught.value.what
    assert CONFIG_FILE in caught.value.what
    assert caught.value.remedy == "did you mean 'ports.offset'?"
    assert caught.value.exit_code == 2


def test_an_unknown_name_in_the_environment_is_named_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFDS_PORTS__OFSET", "1")
    with pytest.raises(UnknownNameError) as caught:
        load(tmp_path)
    assert "SHOPFDS_PORTS__OFSET" in caught.value.what
    assert "SHOPFDS_PORTS__OFFSET" in caught.value.remedy


def test_an_unknown_flag_names_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'ports\.ofset' \(in the command line\)"):
        load(tmp_path, {"ports": {"ofset": 1}})


def test_an_unknown_key_inside_a_json_section_names_the_environment_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFDS_PORTS", '{"ofset": 7}')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "ports.ofset" in caught.value.what
    assert "environment" in caught.value.what
    assert CONFIG_FILE not in caught.value.what


def test_broken_json_in_the_environment_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPFDS_PORTS", "not json")
    with pytest.raises(ConfigError, match="environment"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[ports]\nredis = 'many'\n", "ports.redis"),
        ("[ports]\nredis = 80\n", "ports.redis"),
        ("[ports]\noffset = -1\n", "ports.offset"),
        ("engine = 'podman'\n", "engine"),
        ("timeout = 0\n", "timeout"),
        ("timeout = nan\n", "timeout"),
        ("ports = 5\n", "ports"),
        ("[postgres]\nshared_buffers = '12 parsecs'\n", "postgres.shared_buffers"),
        ("[postgres]\ndatabase = 'Robert; DROP'\n", "postgres.database"),
        ("project = 'Caps'\n", "project"),
    ],
)
def test_a_wrong_value_in_the_file_names_the_key_and_the_file(tmp_path: Path, text: str, key: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.what.startswith(f"setting {key}")
    assert f"(from {file})" in caught.value.what
    assert "\n" not in caught.value.what


def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[ports]\noffset = 5\n")
    monkeypatch.setenv("SHOPFDS_PORTS__OFFSET", "abc")
    with pytest.raises(ConfigError, match=r"setting ports\.offset = 'abc'.*\(from SHOPFDS_PORTS__OFFSET\)"):
        load(tmp_path)


def test_a_wrong_flag_names_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"setting engine = 'podman'.*the command line"):
        load(tmp_path, {"engine": "podman"})


@pytest.mark.parametrize("content", [b"[ports\n", b"a = \n", b"\xff\xfe", b"x = 1\nx = 2\n"])
def test_a_file_that_is_no_toml_is_named_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / CONFIG_FILE
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(file) in caught.value.what
    assert caught.value.remedy


@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_whatever_the_file_holds_the_error_is_one_of_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(content)
    try:
        load(tmp_path)
    except ConfigError as error:
        assert error.what


# -- ports -------------------------------------------------------------------------------------------------------


def test_the_default_ports_are_all_different() -> None:
    numbers = [number for _, number in Ports().numbers()]
    assert len(numbers) == len(set(numbers))
    assert set(range(7000, 7006)) <= set(numbers)
    assert set(range(17000, 17006)) <= set(numbers)


@given(offset=st.integers(0, 40000))
def test_an_offset_moves_every_port_by_the_same(offset: int) -> None:
    base = dict(enumerate(Ports().numbers()))
    moved = dict(enumerate(Ports(offset=offset).numbers()))
    assert [number - offset for _, number in moved.values()] == [number for _, number in base.values()]


def test_two_settings_that_meet_on_one_port_are_both_named(tmp_path: Path) -> None:
    write(tmp_path, "[ports]\npostgres_primary = 7003\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "ports.postgres_primary" in caught.value.what
    assert "ports.redis" in caught.value.what
    assert "7003" in caught.value.what


def test_a_port_that_meets_a_cluster_bus_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "[ports]\nrabbitmq = 17005\n")
    with pytest.raises(ConfigError, match="17005"):
        load(tmp_path)


def test_an_offset_that_pushes_a_port_over_the_last_one_is_refused(tmp_path: Path) -> None:
    largest = max(number for _, number in Ports().numbers())
    assert load(tmp_path, {"ports": {"offset": 65535 - largest}}).settings.ports.offset == 65535 - largest
    with pytest.raises(ConfigError, match="over 65535"):
        load(tmp_path, {"ports": {"offset": 65535 - largest + 1}})


# -- writing -----------------------------------------------------------------------------------------------------


def test_set_value_keeps_comments_and_order(tmp_path: Path) -> None:
    file = write(tmp_path, "# ours\nengine = 'local'  # here\n\n[redis]\nmemory = 400 # MiB\n# end\n")
    assert set_value(tmp_path, "redis.memory", "500") == 500
    assert set_value(tmp_path, "ports.offset", "100") == 100
    text = file.read_text()
    assert text.startswith("# ours\nengine = 'local'  # here\n\n[redis]\nmemory = 500 # MiB\n# end\n")
    assert load(tmp_path).settings.ports.offset == 100


def test_set_value_makes_the_file_when_there_is_none(tmp_path: Path) -> None:
    assert set_value(tmp_path, "images.redis", "redis:8.0") == "redis:8.0"
    assert load(tmp_path).settings.images.redis == "redis:8.0"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ports.offset", "many"),
        ("ports.postgres_primary", "7000"),
        ("engine", "podman"),
        ("redis.maxmemory", "-1"),
        ("images.redis", "redis"),
        ("images.redis", "redis:latest"),
        ("images.redis", "redis:7.4-alpine"),
        ("images.redis", "redis:7.4@sha256:00ff"),
        ("docker.subnet", "10.0.0.0/8"),
        ("docker.subnet", "8.8.8.0/24"),
        ("docker.name", "My Shop"),
    ],
)
def test_set_value_refuses_a_wrong_value_and_leaves_the_file_as_it_is(tmp_path: Path, key: str, value: str) -> None:
    file = write(tmp_path, "# mine\nengine = 'local'\n")
    with pytest.raises(ConfigError):
        set_value(tmp_path, key, value)
    assert file.read_text() == "# mine\nengine = 'local'\n"
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_FILE]


def test_set_value_refuses_an_unknown_key_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"port\.offset") as caught:
        set_value(tmp_path, "port.offset", "1")
    assert "ports.offset" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_set_value_does_not_write_over_a_file_that_is_already_broken(tmp_path: Path) -> None:
    file = write(tmp_path, "[ports\n")
    with pytest.raises(ConfigError):
        set_value(tmp_path, "ports.offset", "1")
    assert file.read_text() == "[ports\n"


@hypothesis_settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(known_keys()), text=st.text(max_size=20))
def test_whatever_is_set_the_file_can_be_read_again(tmp_path: Path, key: str, text: str) -> None:
    (tmp_path / CONFIG_FILE).unlink(missing_ok=True)
    try:
        written = set_value(tmp_path, key, text)
    except ShopfdsError as error:
        assert isinstance(error, ConfigError)
        assert not (tmp_path / CONFIG_FILE).exists()
        return
    assert {name: value for name, value, _ in load(tmp_path).entries()}[key] == written


def test_every_key_has_a_description_or_a_name_that_needs_none() -> None:
    described = {key: settings.description(key) for key in known_keys()}
    assert described["ports.offset"]
    assert described["ports.redis"]
    assert all(text == text.strip() and text.isascii() for text in described.values())


# -- project -----------------------------------------------------------------------------------------------------


def test_the_project_is_the_folder_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPFDS_PROJECT_DIR", str(tmp_path))
    assert find_project() == tmp_path.resolve()


def test_a_project_in_the_environment_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFDS_PROJECT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        find_project()


@pytest.mark.parametrize("mark", [CONFIG_FILE, "infrastructure/.manifest.json"])
def test_the_nearest_folder_upwards_that_was_used_is_the_project(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).write_text("")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_project(deep) == tmp_path.resolve()


def test_what_to_do_about_a_wrong_value_depends_on_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFDS_TIMEOUT", "abc")
    with pytest.raises(ConfigError) as from_environment:
        load(tmp_path)
    assert "unset SHOPFDS_TIMEOUT" in from_environment.value.remedy
    monkeypatch.delenv("SHOPFDS_TIMEOUT")
    with pytest.raises(ConfigError) as from_file:
        set_value(tmp_path, "timeout", "abc")
    assert "shopfds config set timeout" in from_file.value.remedy
    with pytest.raises(ConfigError, match=r"^postgres.shared_buffers = 2GB does not fit into postgres.memory"):
        set_value(tmp_path, "postgres.shared_buffers", "2GB")
