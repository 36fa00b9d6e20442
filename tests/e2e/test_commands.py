"""The daily commands through the CLI, as their help texts promise them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from shopfds_ops.components import redis_cluster
from tests.conftest import Project


def rows(project: Project) -> dict[str, int]:
    return {item["table"]: item["rows"] for item in project.json("status", "data")["data"]["data"]["tables"]}


def test_seeding_three_times_once_interrupted_gives_three_batches_that_agree(project: Project) -> None:
    project.ok("reset-db", "--yes")
    small = ("--users", "200", "--products", "50", "--orders", "3000", "--reviews", "500")
    project.ok("seed", *small)
    assert project.run("seed", *small).returncode == 1
    project.ok("seed", "--append", *small)
    process = project.start("seed", "--append", *small)
    try:
        process.communicate(timeout=0.9)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    while rows(project)["orders"] < 9000:
        project.ok("seed", "--append", *small)
    counted = rows(project)
    assert counted["orders"] == counted["transactions"] == 9000
    assert counted["users"] == 600
    assert project.run("seed", "--check").returncode == 0


def test_reset_db_asks_and_leaves_the_latest_schema_empty(project: Project) -> None:
    assert project.run("reset-db").returncode == 1
    project.ok("blacklist", "add", "--user", "before-reset")
    project.ok("reset-db", "--yes")
    assert set(rows(project).values()) == {0}
    assert project.run("blacklist", "check", "--user", "before-reset").returncode == 0
    assert "pending" not in project.ok("migrate")


def test_the_whole_copy_is_flushed_and_rebuilt_with_the_time_that_was_left(project: Project, tmp_path: Path) -> None:
    listed = tmp_path / "listed.csv"
    listed.write_text("type,value,ttl,reason\nip,192.0.2.7,7d,test\nuser,flushed,4h,test\ndevice,d-1,permanent,test\n")
    project.ok("blacklist", "import", str(listed))
    before = json.loads(project.ok("blacklist", "export", "-o", "json"))
    live = project.stack().live
    for host, port in redis_cluster.endpoints(live):
        with redis.Redis(host, port, username="admin", password=live.secrets["REDIS_ADMIN_PASSWORD"]) as client:
            if client.info("replication")["role"] == "master":
                client.flushall()
    assert project.run("status", "data").returncode == 1
    assert project.run("blacklist", "check", "--user", "flushed").returncode == 1
    assert "restored" in project.run("blacklist", "rebuild").stderr
    assert project.ok("status", "data")
    assert json.loads(project.ok("blacklist", "export", "-o", "json")) == before
    project.ok("blacklist", "remove", "--ip", "192.0.2.7", "--user", "flushed", "--device", "d-1")


def test_a_life_can_be_set_and_history_tells_it(project: Project) -> None:
    project.ok("blacklist", "add", "--email", "someone@shop.example", "--ttl", "7d", "--reason", "first")
    project.ok("blacklist", "ttl", "4h", "--email", "someone@shop.example", "--reason", "second", "--actor", "me")
    told = project.ok("blacklist", "history", "--email", "someone@shop.example")
    assert "second" in told
    assert "me" in told
    project.ok("blacklist", "remove", "--email", "someone@shop.example")


def test_watching_status_shows_one_report_after_another_until_ctrl_c(project: Project) -> None:
    process = project.start("status", "nodes", "--watch", "--interval", "0.5", "--format", "json")
    assert process.stdout is not None
    reports = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert [report["command"] for report in reports] == ["status"] * 3


def test_the_same_settings_render_the_same_bytes_in_every_process(project: Project, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        project.ok("render", "--output", str(tmp_path / seed), env={"PYTHONHASHSEED": seed})
    one, two = (_files(tmp_path / seed) for seed in ("1", "2"))
    assert one == two
    assert set(one) >= {
        "docker/postgres/master.conf",
        "docker/postgres/replica.conf",
        "docker/redis/redis-cluster.conf",
        "docker/rabbitmq/rabbitmq.conf",
        "docker/rabbitmq/definitions.json",
        "docker/.env.example",
        "docker/docker-compose.yml",
    }
    assert ("local/supervisord.conf" in one) == (project.engine == "local")


def test_a_broken_setting_is_mended_by_the_command_that_its_error_names(project: Project) -> None:
    file = project.folder / "shopfds.toml"
    kept = file.read_text()
    file.write_text(kept.replace("offset = ", 'offset = "abc" # '))
    said = project.run("status")
    assert said.returncode == 2
    assert "config set ports.offset" in said.stderr
    offset = kept.split("offset = ")[1].splitlines()[0]
    project.ok("config", "set", "ports.offset", offset)
    project.ok("status")
    file.write_text(kept)


def test_an_error_as_json_names_the_command_and_keeps_the_details(project: Project, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("type,value\nip,192.0.2.1\nip,not-an-address\n")
    envelope = project.json("blacklist", "import", str(bad))
    assert envelope["command"] == "blacklist import"
    assert any("line 3" in line for line in envelope["data"]["details"])
    assert project.run("blacklist", "check", "--ip", "192.0.2.1").returncode == 0


def test_what_does_not_run_is_named_at_once_by_exec_and_init(project: Project) -> None:
    project.ok("kill", "redis-node-2", "--signal", "SIGSTOP")
    assert "redis-node-2 is paused" in project.run("init", "redis-cluster").stderr
    project.ok("start", "redis-node-2")
    project.ok("stop", "rabbitmq")
    said = project.run("exec", "rabbitmq")
    assert said.returncode == 1
    assert "shopfds start rabbitmq" in said.stderr
    assert "rabbitmq is stopped" in project.run("status", "rabbitmq").stderr
    assert "not running: rabbitmq" in project.run("doctor").stderr
    project.ok("up", "--no-seed")


@pytest.mark.engines("local")  # Docker keeps volumes where it likes
def test_a_stack_that_has_data_is_not_moved_by_a_setting(project: Project) -> None:
    before = (project.folder / "shopfds.toml").read_text()
    said = project.run("config", "set", "data", "elsewhere")
    assert said.returncode == 1
    assert "has its data in" in said.stderr
    assert (project.folder / "shopfds.toml").read_text() == before


def test_a_project_folder_may_have_a_space_in_its_name(workspace: Path, fresh_project: Project) -> None:
    spaced = Project(workspace / f"my {fresh_project.engine} shop", fresh_project.engine)
    spaced.folder.mkdir()
    (spaced.folder / "shopfds.toml").write_text((fresh_project.folder / "shopfds.toml").read_text())
    try:
        spaced.ok("up", "--no-seed")
        assert spaced.json("status")["ok"]
    finally:
        spaced.remove()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
