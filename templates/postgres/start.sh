#!/bin/sh
# Starts one PostgreSQL node: start.sh primary|replica|heartbeat.
# On the first start it makes the data: initdb for the primary, pg_basebackup for the replica. They are made in a folder
# beside and renamed when complete, so that an interrupted first start leaves nothing half-made behind.
set -eu
role=$1
partial="${PGDATA:-none}.partial"

refuse() {
    echo "start.sh: $*" >&2
    exit 1
}

# Data of another major release cannot be opened, and must not be made anew either.
require_same_major() {
    ours=$(postgres --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    theirs=$(cat "$PGDATA/PG_VERSION")
    [ "$ours" = "$theirs" ] ||
        refuse "$PGDATA was made by PostgreSQL $theirs, and this is PostgreSQL $ours: start it with PostgreSQL $theirs"
}

case $role in
primary)
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        if [ -d "$PGDATA" ] && ! rmdir "$PGDATA"; then
            refuse "$PGDATA holds files, but no database; move them away, then start again"
        fi
        rm -rf "$partial"
        initdb --pgdata="$partial" --username=postgres --pwfile="$SUPERUSER_PASSWORD_FILE" \
            --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --data-checksums
        postgres --single -D "$partial" postgres < "$BOOTSTRAP_FILE" > /dev/null
        mv "$partial" "$PGDATA"
    fi
    ;;
replica)
    # Asked as the superuser, whom pg_hba.conf lets ask: no refusal fills the primary's log meanwhile.
    [ -s "$PGDATA/PG_VERSION" ] ||
        until pg_isready --quiet --dbname="$PRIMARY_CONNINFO user=postgres dbname=postgres"; do sleep 0.2; done
    # libpq ignores a password file that others may read, and a file that is mounted into a container may be one.
    (umask 077 && cat "$REPLICATOR_PASSFILE" > "$PASSFILE")
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        rm -rf "$partial"
        # The slot keeps the WAL from the first byte of the backup on. It is there already when the replica is rebuilt.
        backup() {
            pg_basebackup --dbname="$PRIMARY_CONNINFO" --pgdata="$partial" --wal-method=stream --checkpoint=fast \
                --slot="$SLOT" --no-password "$@"
        }
        backup --create-slot || {
            rm -rf "$partial"
            backup
        }
        touch "$partial/standby.signal"
        rm -rf "$PGDATA"
        mv "$partial" "$PGDATA"
    fi
    ;;
heartbeat)
    # psql ends when the primary does; it is asked again until it is back.
    while :; do
        until pg_isready --quiet; do sleep 0.5; done
        PGPASSWORD=$(cat "$PASSWORD_FILE") psql --no-psqlrc --quiet --no-password --set=ON_ERROR_STOP=1 \
            --file="$HEARTBEAT_FILE" || sleep 1
    done
    ;;
*)
    echo "start.sh: unknown role '$role'" >&2
    exit 2
    ;;
esac

require_same_major
exec postgres -D "$PGDATA" -c config_file="$CONFIG_FILE"
