"""The life of a stack as its operator sees it: up, status, faults, up again, down."""

from __future__ import annotations

import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable

import psycopg
import pytest
from filelock import FileLock

from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.secrets import PURPOSES
from tests.conftest import Project
from tests.e2e.conftest import add_user, data_folder, empty, kill_hard, left_over, pid_of, supervisor_of

NODES = (
    "postgres-primary",
    "postgres-replica",
    "postgres-heartbeat",
    *(f"redis-node-{number}" for number in range(1, 7)),
    "rabbitmq",
)


def healthy(project: Project) -> bool:
    return bool(project.json("status")["data"]["healthy"])


def users(project: Project) -> int:
    with psycopg.connect(postgres.conninfo(project.stack().live, "shopfds")) as connection:
        row = connection.execute("SELECT count(*) FROM ecommerce.users").fetchone()
    assert row is not None
    return int(row[0])


def test_a_stack_that_is_up_is_healthy_and_says_so_to_people_and_programs(project: Project) -> None:
    printed = project.ok("status")
    for node in NODES:
        assert node in printed
    assert "16384 of 16384 slots covered" in printed
    envelope = project.json("status")
    assert envelope["ok"]
    assert envelope["data"]["healthy"]
    assert {node["state"] for node in envelope["data"]["nodes"]} == {"running"}
    replication = envelope["data"]["postgres"]
    assert replication["connected"]
    assert replication["lag_seconds"] is not None


def test_a_second_up_starts_nothing_and_changes_nothing(project: Project) -> None:
    before = {row["name"]: row["pid"] for row in project.json("ps")["data"]}
    project.ok("up", "--no-seed")
    assert {row["name"]: row["pid"] for row in project.json("ps")["data"]} == before


def test_a_row_written_on_the_primary_is_on_the_replica(project: Project) -> None:
    add_user(project, "replicated")
    live = project.stack().live
    end = time.monotonic() + 10
    found = 0
    while not found and time.monotonic() < end:
        with psycopg.connect(postgres.conninfo(live, "shopfds", "replica")) as connection:
            row = connection.execute("SELECT count(*) FROM ecommerce.users WHERE name = 'replicated'").fetchone()
            found = int(row[0]) if row else 0
    assert found == 1


@pytest.mark.parametrize("node", NODES)
def test_a_node_that_was_killed_hard_is_back_after_up_and_nothing_is_lost(project: Project, node: str) -> None:
    add_user(project, f"before-{node}")
    count = users(project)
    kill_hard(pid_of(project, node))
    project.ok("up", "--no-seed")
    assert healthy(project)
    assert users(project) == count


@pytest.mark.engines("local")  # Docker's daemon is everybody's, and not ours to kill
def test_nodes_outlive_their_supervisor_and_up_takes_them_back(project: Project) -> None:
    add_user(project, "before-supervisor")
    count = users(project)
    kill_hard(supervisor_of(project).pid)
    said = project.run("status")
    assert said.returncode == 1
    assert "without its supervisor" in said.stderr
    project.ok("up", "--no-seed")
    assert healthy(project)
    assert users(project) == count


def test_a_node_killed_by_the_cli_stays_down_until_it_is_started(project: Project) -> None:
    project.ok("kill", "postgres-replica")
    said = project.run("status", "postgres")
    assert said.returncode == 1
    assert "shopfds start postgres-replica" in said.stderr
    project.ok("start", "postgres-replica")
    project.ok("up", "--no-seed")
    assert healthy(project)


def test_a_replica_that_is_frozen_is_reported_as_unreachable_and_its_lag_as_unknown(project: Project) -> None:
    project.ok("kill", "postgres-replica", "--signal", "SIGSTOP")
    try:
        envelope = project.json("status", "postgres")
        assert envelope["exit_code"] == 1
        assert envelope["data"]["postgres"]["lag_seconds"] is None
        assert envelope["data"]["postgres"]["lag_bytes"] is None
        assert not envelope["data"]["postgres"]["connected"]
        assert "postgres-replica is paused" in project.run("status", "postgres").stderr
    finally:
        project.ok("up", "--no-seed")
    assert healthy(project)


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_a_replica_whose_data_were_wiped_comes_back_by_one_up(project: Project, running: bool) -> None:
    count = users(project)
    if not running:
        project.ok("stop", "postgres-replica")
    empty(data_folder(project, "postgres-replica"))
    project.ok("up", "--no-seed")
    assert healthy(project)
    with psycopg.connect(postgres.conninfo(project.stack().live, "shopfds", "replica")) as connection:
        row = connection.execute("SELECT count(*) FROM ecommerce.users").fetchone()
    assert row == (count,)


def lose_wal(project: Project) -> None:
    """Let the primary forget the WAL that a stopped replica has not received."""
    with psycopg.connect(postgres.conninfo(project.stack().live, "postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        connection.execute("ALTER SYSTEM SET wal_keep_size = 0")
        connection.execute("SELECT pg_reload_conf()")
        for _ in range(4):
            connection.execute("CREATE TABLE public.filler AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            connection.execute("DROP TABLE public.filler")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
        statuses = connection.execute("SELECT wal_status FROM pg_replication_slots").fetchall()
        assert set(statuses) <= {("lost",)}
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")


def drop_slot(project: Project) -> None:
    """As an operator would, with the replica stopped."""
    with psycopg.connect(postgres.conninfo(project.stack().live, "postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot('postgres_replica')")


def test_a_replica_whose_slot_was_dropped_gets_a_new_one_by_one_up(project: Project) -> None:
    project.ok("stop", "postgres-replica")
    drop_slot(project)
    project.stack().engine.start([project.stack().topology.node("postgres-replica")])
    told = project.run("status", "postgres")
    assert told.returncode == 1
    said = project.run("up", "--no-seed")
    assert said.returncode == 0, said.stderr
    assert "is gone from postgres-primary: it is made anew" in said.stderr
    assert "pg_basebackup" not in said.stderr
    assert healthy(project)


@pytest.mark.parametrize("killed_after", ["stopping", "dropping the slot", "wiping"])
def test_a_rebuild_that_was_killed_is_finished_by_the_next_up(project: Project, killed_after: str) -> None:
    count = users(project)
    stack = project.stack()
    replica = stack.topology.node("postgres-replica")
    project.ok("stop", "postgres-replica")
    lose_wal(project)
    if killed_after != "stopping":
        drop_slot(project)
    if killed_after == "wiping":
        stack.engine.wipe(replica)
    project.ok("up", "--no-seed")
    assert healthy(project)
    with psycopg.connect(postgres.conninfo(stack.live, "shopfds", "replica")) as connection:
        assert connection.execute("SELECT count(*) FROM ecommerce.users").fetchone() == (count,)


def test_rights_that_a_role_lost_are_given_back_by_one_up(project: Project) -> None:
    with psycopg.connect(postgres.conninfo(project.stack().live, "postgres"), autocommit=True) as connection:
        connection.execute("ALTER ROLE replicator NOREPLICATION")
        connection.execute("REVOKE pg_monitor FROM monitor")
    project.ok("up", "--no-seed")
    with psycopg.connect(postgres.conninfo(project.stack().live, "postgres"), autocommit=True) as connection:
        row = connection.execute(
            "SELECT rolreplication, pg_has_role('monitor', 'pg_monitor', 'USAGE') FROM pg_roles "
            "WHERE rolname = 'replicator'"
        ).fetchone()
    assert row == (True, True)
    assert healthy(project)


def test_a_replica_whose_wal_is_gone_is_rebuilt_by_one_up(project: Project) -> None:
    project.ok("stop", "postgres-replica")
    lose_wal(project)
    project.stack().engine.start([project.stack().topology.node("postgres-replica")])
    told = project.run("status", "postgres")
    assert told.returncode == 1
    assert "the WAL it needs is gone from the primary" in told.stderr
    said = project.run("up", "--no-seed")
    assert said.returncode == 0, said.stderr
    assert "it is rebuilt by pg_basebackup" in said.stderr
    assert healthy(project)


@pytest.mark.parametrize("role", ["master", "replica"])
def test_a_redis_node_that_lost_its_data_comes_back_by_one_up(project: Project, role: str) -> None:
    nodes = project.json("status", "redis-cluster")["data"]["redis-cluster"]["nodes"]
    name = next(node["name"] for node in nodes if node["role"] == role)
    project.ok("stop", name)
    empty(data_folder(project, name))
    project.ok("up", "--no-seed")
    report = project.json("status", "redis-cluster")
    assert report["ok"]
    roles = [node["role"] for node in report["data"]["redis-cluster"]["nodes"]]
    assert sorted(roles) == ["master"] * 3 + ["replica"] * 3


def test_an_empty_primary_is_not_started_over_a_replica_that_holds_the_data(project: Project) -> None:
    count = users(project)
    project.ok("stop")
    data = data_folder(project, "postgres-primary") / "pgdata"
    kept = data.parent.with_name("kept")
    data.rename(kept)
    try:
        said = project.run("up")
        assert said.returncode == 1
        assert "postgres-primary are gone" in said.stderr
    finally:
        shutil.rmtree(data, ignore_errors=True)
        kept.rename(data)
    project.ok("up", "--no-seed")
    assert users(project) == count


ON_LOCAL = pytest.mark.engines("local")  # where `up` is quick


@pytest.mark.parametrize(
    "part", [pytest.param(0.04, marks=ON_LOCAL), 0.1, pytest.param(0.2, marks=ON_LOCAL), 0.35, 0.6]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_an_up_that_was_interrupted_is_finished_by_the_next(
    first_up: tuple[Project, float], fresh_project: Project, number: signal.Signals, part: float
) -> None:
    process = fresh_project.start("up")
    try:
        process.communicate(timeout=part * first_up[1])
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if number is signal.SIGINT:
            assert process.returncode == 130, said
            assert "interrupted" in said
            assert "Traceback" not in said
    fresh_project.ok("up")
    assert healthy(fresh_project)
    assert users(fresh_project) == 1000
    assert fresh_project.json("seed", "--check")["ok"]


def test_down_keeps_data_and_leaves_no_process(project: Project) -> None:
    count = users(project)
    project.ok("down")
    assert left_over(project) == []
    assert "nothing was running" in project.run("stop").stderr
    assert project.run("status").returncode == 1
    project.ok("up", "--no-seed")
    assert users(project) == count


def test_down_with_volumes_asks_and_does_nothing_without_an_answer(project: Project) -> None:
    said = project.run("down", "--volumes")
    assert said.returncode == 1
    assert "--yes" in said.stderr
    assert healthy(project)


def test_only_one_part_can_be_restarted(project: Project) -> None:
    primary, replica = pid_of(project, "postgres-primary"), pid_of(project, "postgres-replica")
    project.ok("restart", "postgres-replica")
    assert pid_of(project, "postgres-primary") == primary
    assert pid_of(project, "postgres-replica") != replica
    project.ok("up", "--no-seed")


def test_an_up_right_after_an_interrupted_restart_makes_everything_run(project: Project) -> None:
    """The broker takes seconds to stop, and goes on stopping when the command is gone."""
    process = project.start("restart", "rabbitmq")
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=2.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    project.ok("up", "--no-seed")
    assert healthy(project)


def test_a_changed_setting_restarts_only_the_nodes_it_concerns(project: Project) -> None:
    before = {node: pid_of(project, node) for node in NODES}
    project.ok("config", "set", "redis.node_timeout_ms", "4000")
    try:
        told = project.run("render", "--check")
        assert told.returncode == 1
        assert "redis-node-1 would restart" in told.stderr
        assert "postgres-primary" not in told.stderr
        project.ok("up", "--no-seed")
        changed = {node for node in NODES if pid_of(project, node) != before[node]}
        assert changed == {f"redis-node-{number}" for number in range(1, 7)}
        assert healthy(project)
    finally:
        project.ok("config", "set", "redis.node_timeout_ms", "5000")
        project.ok("up", "--no-seed")


@pytest.mark.parametrize("name", [name for name in PURPOSES if name != "POSTGRES_PASSWORD"])
def test_a_rotated_password_is_noticed_by_doctor_and_put_in_force_by_up(project: Project, name: str) -> None:
    env = project.folder / ".env"
    lines = [
        f"{name}=rotated-by-hand" if line.startswith(f"{name}=") else line for line in env.read_text().splitlines()
    ]
    env.write_text("\n".join(lines) + "\n")
    said = project.run("doctor")
    assert said.returncode == 1
    assert name in said.stderr
    assert "rotated-by-hand" not in said.stdout + said.stderr
    project.ok("up", "--no-seed")
    assert project.run("doctor").returncode == 0
    assert healthy(project)


def test_a_part_of_the_stack_is_healthy_by_itself(project: Project) -> None:
    project.ok("stop")
    printed = project.ok("up", "--only", "postgres", "--without", "postgres-replica", "--no-seed")
    assert "[SKIP] stopped" in printed
    states = {row["name"]: row["state"] for row in project.json("ps")["data"]}
    assert states["postgres-primary"] == "running"
    assert {states["postgres-replica"], states["rabbitmq"], states["redis-node-1"]} == {"stopped"}
    assert project.run("status").returncode == 1
    project.ok("up", "--no-seed")


def test_entries_that_a_migration_down_dropped_are_not_enforced_any_more(project: Project) -> None:
    project.ok("blacklist", "add", "--user", "ghost", "--reason", "test")
    assert project.run("blacklist", "check", "--user", "ghost").returncode == 1
    project.ok("migrate", "--to", "0001_transactions", "--yes")
    project.ok("up", "--no-seed")
    assert project.run("blacklist", "check", "--user", "ghost").returncode == 0


def test_the_blacklist_answers_while_the_primary_is_down(project: Project) -> None:
    project.ok("blacklist", "add", "--user", "listed-before", "--reason", "test")
    project.ok("kill", "postgres-primary")
    said = project.run("blacklist", "check", "--user", "listed-before")
    project.ok("up", "--no-seed")
    assert said.returncode == 1
    assert "LISTED" in said.stdout
    assert "could not be asked" in said.stderr
    project.ok("blacklist", "remove", "--user", "listed-before")


def test_a_wrong_superuser_password_is_named_at_once_and_the_data_stay(project: Project) -> None:
    count = users(project)
    env = project.folder / ".env"
    before = env.read_text()
    env.write_text(before.replace("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD=wrong", 1))
    try:
        began = time.monotonic()
        said = project.run("up", "--no-seed", "--timeout", "100")
        assert said.returncode == 1
        assert "refuses the superuser's password" in said.stderr
        assert "restore POSTGRES_PASSWORD" in said.stderr
        assert time.monotonic() - began < 60
    finally:
        env.write_text(before)
    project.ok("up", "--no-seed")
    assert users(project) == count


def test_a_lost_secret_is_not_replaced_while_data_need_it(project: Project) -> None:
    env = project.folder / ".env"
    before = env.read_text()
    lost = "".join(line for line in before.splitlines(keepends=True) if not line.startswith("POSTGRES_APP_PASSWORD="))
    try:
        env.unlink()
        said = project.run("up")
        assert said.returncode == 1
        assert ".env is missing" in said.stderr
        assert not env.exists()
        env.write_text(lost)
        said = project.run("up")
        assert said.returncode == 1
        assert "lacks POSTGRES_APP_PASSWORD" in said.stderr
        assert env.read_text() == lost
    finally:
        env.write_text(before)
        env.chmod(0o600)
    assert healthy(project)


def test_a_second_stack_on_the_same_ports_is_told_who_has_them_and_how_to_move(
    project: Project, new_project: Callable[[], Project]
) -> None:
    second = new_project()
    offset = project.ok("config", "get", "ports.offset").strip()
    second.ok("config", "set", "ports.offset", offset)
    said = second.run("up")
    assert said.returncode == 1
    assert str(project.folder) in said.stderr
    assert "ports.offset" in said.stderr
    assert healthy(project)


def test_two_commands_at_once_do_not_meet(project: Project) -> None:
    with FileLock(project.folder / ".shopfds" / "lock"):
        said = project.run("stop")
    assert said.returncode == 1
    assert "another shopfds command" in said.stderr


def test_logs_are_merged_by_time_filtered_and_followed(project: Project) -> None:
    lines = project.ok("logs", "postgres-primary", "--since", "1h", "--grep", "database system is ready").splitlines()
    assert lines
    assert all("database system is ready" in line for line in lines)
    assert len(project.ok("logs", "redis-cluster", "--tail", "3").splitlines()) == 3


def test_following_logs_shows_lines_as_they_come(project: Project) -> None:
    process = project.start("logs", "postgres-primary", "-f", "--tail", "0")
    stdout = process.stdout
    assert stdout is not None
    with psycopg.connect(postgres.conninfo(project.stack().live, "shopfds"), autocommit=True) as connection:
        end = time.monotonic() + 20
        shown = False
        try:
            while not shown and time.monotonic() < end:
                with pytest.raises(psycopg.errors.UndefinedTable):
                    connection.execute("SELECT * FROM no_such_table_for_logs")
                while not shown and select.select([stdout], [], [], 0.5)[0]:
                    shown = "no_such_table_for_logs" in stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
    assert shown
    assert process.returncode == 0


def test_exec_has_every_client_ready(project: Project) -> None:
    query = project.ok("exec", "postgres-replica", "psql", "-Atc", "SELECT pg_is_in_recovery()")
    assert query.strip() == "t"
    assert "cluster_state:ok" in project.ok("exec", "redis-node-3", "redis-cli", "cluster", "info")
    assert "rabbit@" in project.ok("exec", "rabbitmq", "rabbitmqctl", "cluster_status")
    assert project.run("exec", "postgres-primary", "sh", "-c", "exit 7").returncode == 7


def test_no_secret_shows_in_arguments_logs_rendered_files_or_output(project: Project) -> None:
    stack = project.stack()
    values = [value for value in stack.secrets.values.values() if len(value) > 12]
    printed = project.run("status").stdout + project.run("doctor").stdout + project.run("config", "show").stdout
    logs = project.ok("logs")
    closed = stack.output.folder / "docker" / "secrets"
    files = [path for path in stack.output.folder.rglob("*") if path.is_file() and path.parent != closed]
    rendered = b"".join(path.read_bytes() for path in files).decode()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not closed.exists() or stat.S_IMODE(closed.stat().st_mode) == 0o700
    for value in values:
        assert value not in printed
        assert value not in logs
        assert value not in rendered
        assert value not in processes


def test_cluster_clients_on_the_host_reach_every_node_by_its_port(project: Project) -> None:
    live = project.stack().live
    assert [port for _, port in redis_cluster.endpoints(live)] == [
        live.topology.node(f"redis-node-{number}").port("client") for number in range(1, 7)
    ]
