# Doing things and saying so; files and links, and where ours stand.
# shellcheck shell=bash disable=SC2034,SC2154  # sourced by ../install.sh, whose variables these are

say() { printf 'edge-llm: %s\n' "$*"; }
fail() {
    printf 'edge-llm: %s\n' "$*" >&2
    exit 1
}

# run WHAT COMMAND...: do it and say so, or only say so.
run() {
    local what=$1
    shift
    if [ "$dry_run" = yes ]; then
        say "would $what"
    else
        say "$what"
        "$@"
    fi
}

# quietly COMMAND...: its output is shown if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
    rm -f "$log"
}

# put FILE DESTINATION MODE: sets changed=yes if it was not so already.
put() {
    if ! cmp -s "$1" "$2"; then
        run "write ${2#"$D"}" install -D -m "$3" "$1" "$2"
        changed=yes
        changed_files+=" $2"
    fi
}

# link TARGET NAME: at once, so that there never is none.
link() {
    if [ "$(readlink "$2" || true)" != "$1" ]; then
        run "make ${2#"$D"} a link to $1" replace_link "$1" "$2"
        changed=yes
    fi
}

replace_link() {
    mkdir -p "$(dirname "$2")"
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
}

# What stands where, of a directory like this clone's.
system_files() {
    cat <<END
systemd/edge-llm.service        $units/edge-llm.service
systemd/edge-llm-http.service   $units/edge-llm-http.service
systemd/edge-llm-driver.service $units/edge-llm-driver.service
systemd/edge-llm-driver.path    $units/edge-llm-driver.path
systemd/edge-llm.sysusers       $D/etc/sysusers.d/edge-llm.conf
systemd/edge-llm.tmpfiles       $D/etc/tmpfiles.d/edge-llm.conf
systemd/edge-llm.udev           $D/etc/udev/rules.d/99-edge-llm.rules
systemd/edge-llm.journald       $D/etc/systemd/journald.conf.d/edge-llm.conf
END
}

is_live() { [ -z "$D" ] && [ -d /run/systemd/system ]; }
