"""`shopfds migrate`, `seed` and `reset-db`: the schema of the services, and data to work with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shopfds_ops.cli.options import Format, FormatOption, YesOption, confirm, finish, open_stack

if TYPE_CHECKING:
    from shopfds_ops.result import Message, Result
    from shopfds_ops.seed.loader import Mode, SeedResult
    from shopfds_ops.seed.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("migrate")(migrate)
    app.command("seed")(seed)
    app.command("reset-db")(reset_db)


def migrate(
    to: Annotated[str, typer.Option("--to", metavar="REV", help="head, base, or a revision's id")] = "head",
    service: Annotated[str | None, typer.Option("--service", metavar="NAME", help="only ecommerce or fds")] = None,
    yes: YesOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Bring the schemas of the services to a revision. The latest by default.

    Older revisions drop tables and the rows in them: that is asked first.

    \b
    Examples:
      shopfds migrate
      shopfds migrate --service fds --to 0001_transactions
      shopfds migrate --to base --yes
    """
    from shopfds_ops import console, data, migrations
    from shopfds_ops.result import Message, Result, Table

    conninfo = _conninfo()
    downgrades = [move for move in migrations.plan(conninfo, service, to) if move.direction == "downgrade"]
    if downgrades:
        confirm(f"This drops tables with all their rows: {migrations.moved(downgrades)}. Go on?", yes)
    with console.progress() as sink:
        moves = data.migrate(open_stack().live, service, to, sink)
    present = migrations.current(conninfo)
    pending = migrations.pending(conninfo)
    table = Table(
        "Schemas",
        ("service", "revision", "state"),
        tuple(
            (
                name,
                revision or "empty",
                f"[WARNING] pending: {', '.join(pending[name])}" if name in pending else "[OK] latest",
            )
            for name, revision in present.items()
        ),
    )
    message = Message("ok", migrations.moved(moves) if moves else "nothing to do")
    finish(Result("migrate", {"moves": moves, "revisions": present}, (table,), (message,)), format)


def seed(
    *,
    users: Annotated[int | None, typer.Option(help="users of the batch  [default: settings seed.users]")] = None,
    products: Annotated[int | None, typer.Option(help="products  [default: seed.products]")] = None,
    orders: Annotated[
        int | None, typer.Option(help="orders, each with its transaction  [default: seed.orders]")
    ] = None,
    reviews: Annotated[
        int | None, typer.Option(help="reviews  [default: seed.reviews, or what the orders allow]")
    ] = None,
    scale: Annotated[float, typer.Option(help="multiplies the sizes that are not given")] = 1.0,
    rng_seed: Annotated[int | None, typer.Option(help="same seed, same rows  [default: seed.rng_seed]")] = None,
    append: Annotated[bool, typer.Option("--append", help="add a further batch to what is there")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="remove all rows of the seeded tables first; asks")] = False,
    check: Annotated[bool, typer.Option("--check", help="write nothing: prove that the data agree")] = False,
    yes: YesOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Fill the database with a shop and its orders.

    Users, products, orders, reviews and labelled transactions.
    85 % of the transactions are normal, 10 % suspicious and 5 % fraud, each with a pattern that shows in the data.
    An interrupted run is finished by the next one.

    \b
    Examples:
      shopfds seed
      shopfds seed --append
      shopfds seed --append --users 100 --orders 2000 --reviews 0
      shopfds seed --reset --scale 100 --rng-seed 7
      shopfds seed --check
    """
    from shopfds_ops import console
    from shopfds_ops.errors import UsageError
    from shopfds_ops.seed import loader
    from shopfds_ops.seed.plan import scaled

    if append + reset + check > 1:
        raise UsageError("--append, --reset and --check exclude each other", remedy="give one of them")
    if check:
        finish(_checked(_conninfo()), format)
    plan = scaled(
        open_stack().settings.seed,
        scale,
        {"users": users, "products": products, "orders": orders, "reviews": reviews, "rng_seed": rng_seed},
    )
    mode: Mode = "append" if append else "reset" if reset else "refuse"
    conninfo = _conninfo()
    if reset:
        there = loader.counts(conninfo)
        if any(there.values()):
            confirm(f"This removes all {sum(there.values())} rows of {', '.join(there)}. Go on?", yes)
    with console.progress() as sink:
        done = loader.seed(conninfo, plan, mode, sink)
    finish(_seeded(done, plan), format)


def reset_db(yes: YesOption = False, format: FormatOption = Format.table) -> None:
    """Drop all tables of the services and make them anew.

    \b
    Examples:
      shopfds reset-db
      shopfds reset-db --yes && shopfds seed
    """
    from shopfds_ops import console, data, migrations
    from shopfds_ops.result import Message, Result

    live = open_stack().live
    schemas = ", ".join(migrations.SERVICES.values())
    confirm(f"This drops all tables of the schemas {schemas} with all their rows. Go on?", yes)
    with console.progress() as sink:
        moves = data.reset(live, sink)
    message = Message(
        "ok",
        f"schemas {schemas} are new and empty: {migrations.moved(moves)}",
        "`shopfds seed` fills them",
    )
    finish(Result("reset-db", {"moves": moves}, (), (message,)), format)


def _conninfo() -> str:
    from shopfds_ops.components import postgres

    return postgres.conninfo(open_stack().live, "shopfds")


def _seeded(done: SeedResult, asked: Plan) -> Result:
    from shopfds_ops.result import Message, Result, Table

    table = Table(
        f"Batch {done.batch}",
        ("table", ">rows"),
        tuple((name, str(count)) for name, count in done.rows.items()),
    )
    total = sum(done.rows.values())
    messages = [Message("ok", f"{total} rows in {done.seconds:.1f} s ({done.rows_per_second:,.0f} rows/s)")]
    if done.resumed:
        messages.append(_finished_earlier(done, asked))
    return Result("seed", done, (table,), tuple(messages))


def _finished_earlier(done: SeedResult, asked: Plan) -> Message:
    from shopfds_ops.result import Message

    text = (
        f"this finished batch {done.batch}, which an earlier run had begun; the rows above are those that were missing"
    )
    if done.sizes != asked:
        return Message(
            "warning", f"{text}, and its sizes are those of that run", "`shopfds seed --append` adds another"
        )
    return Message("info", text, "`shopfds seed --append` adds another")


def _checked(conninfo: str) -> Result:
    from shopfds_ops.result import Message, Result, Table
    from shopfds_ops.seed import checks

    found = checks.check(conninfo)
    broken = [invariant for invariant in found if invariant.violations]
    table = Table(
        "Invariants",
        ("state", "what must hold", ">violations"),
        tuple(("[FAIL]" if item.violations else "[OK]", item.name, str(item.violations)) for item in found),
    )
    message = (
        Message("fail", f"{len(broken)} of {len(found)} invariants are broken", "`shopfds seed --reset` starts anew")
        if broken
        else Message("ok", f"all {len(found)} invariants hold")
    )
    return Result("seed", found, (table,), (message,), exit_code=1 if broken else 0)
