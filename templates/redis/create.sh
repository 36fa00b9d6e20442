#!/bin/sh
# Makes a cluster of new Redis nodes where `docker compose up` is run without the CLI: create.sh run|check.
# `run` makes the cluster if all nodes are new, waits until it is whole, and stays idle; `check` says whether it is.
# It repairs nothing, since a repair must first know what would be lost by it: that is for `shopfds up`.
# NODES holds host:port of every node, in the network in which they are to remember each other.
set -eu
slots=16384
patience=30 # seconds in which nodes that start, or have just met, learn of each other
opened=/tmp/opened

say() {
    echo "create.sh: $*" >&2
}

count() {
    echo $#
}
total=$(count $NODES)

# CLUSTER INFO of node $1, one line: as user `health`, who may ask for nothing else and needs no password.
info() {
    redis-cli -h "${1%:*}" -p "${1#*:}" --user health --pass health --no-auth-warning cluster info 2>/dev/null |
        tr -d '\r' | tr '\n' ' '
}

# Whether CLUSTER INFO of every node has all the words.
all_say() {
    for node in $NODES; do
        said=" $(info "$node")"
        for word in "$@"; do
            case $said in *" $word "*) ;; *) return 1 ;; esac
        done
    done
}

answer() {
    for node in $NODES; do
        case $(info "$node") in *cluster_state:*) ;; *) return 1 ;; esac
    done
}

blank() {
    all_say cluster_known_nodes:1 cluster_slots_assigned:0
}

whole() {
    all_say cluster_state:ok "cluster_slots_ok:$slots" "cluster_known_nodes:$total"
}

# As the admin. The password is in the environment of this one process, and nowhere else.
admin() {
    REDISCLI_AUTH=$(cat "$PASSWORD_FILE") redis-cli --user admin "$@"
}

create() {
    say "making a cluster of $total new nodes"
    addresses=
    for node in $NODES; do
        # Redis wants addresses, not names.
        address=$(getent hosts "${node%:*}") || return 1
        addresses="$addresses ${address%% *}:${node#*:}"
    done
    admin --cluster create $addresses --cluster-replicas 1 --cluster-yes
}

# New nodes let no replica log in. A node that lost its data is new again, and must stay closed: its replica would copy
# the emptiness. So this is for nodes of a whole cluster only, in which every node knows all others.
open() {
    for node in $NODES; do
        [ "$(admin -h "${node%:*}" -p "${node#*:}" ACL SETUSER replication on)" = OK ] || return 1
    done
}

case $1 in
check)
    [ -e "$opened" ] && whole
    ;;
run)
    # A stop that comes while the cluster is made waits until it is: half a cluster needs `shopfds up`.
    trap 'exit 0' TERM INT
    until answer; do sleep 0.5; done
    if blank; then
        create || say "the cluster was not made"
    fi
    waited=0
    until whole && open; do
        [ "$waited" -ne "$patience" ] || say "the cluster is not whole; \`shopfds up\` mends it"
        waited=$((waited + 1))
        sleep 1
    done
    : > "$opened"
    say "the cluster is whole"
    while :; do
        sleep 3600 &
        wait $!
    done
    ;;
*)
    say "unknown task '$1'"
    exit 2
    ;;
esac
