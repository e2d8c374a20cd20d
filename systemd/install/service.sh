# Starting the service, and going back to the version before.
# shellcheck shell=bash disable=SC2034,SC2154  # sourced by ../install.sh, whose variables these are

reload_others() {
    local node
    if ! is_live || [ "$dry_run" = yes ]; then return; fi
    case $changed_files in *journald.conf.d*) systemctl try-restart systemd-journald || true ;; esac
    case $changed_files in *udev*) ;; *) return ;; esac
    udevadm control --reload 2>/dev/null || true
    for node in axcl_host msg_userdev ax_mmb_dev p2p; do
        [ ! -e "/dev/$node" ] || udevadm trigger --action=change "/dev/$node" || true
    done
}

enable_units() {
    local unit
    # An http bridge in its place was chosen, not forgotten.
    if [ "$(systemctl ${D:+--root="$D"} is-enabled edge-llm-http.service 2>/dev/null)" = enabled ]; then
        main=edge-llm-http.service
    fi
    for unit in "$main" edge-llm-driver.path; do
        [ "$(systemctl ${D:+--root="$D"} is-enabled "$unit" 2>/dev/null)" = enabled ] ||
            run "enable $unit" quietly systemctl ${D:+--root="$D"} enable "$unit"
    done
}

of_main() { systemctl show -P "$1" "$main"; }

# Start it, again if it runs, and wait until it is ready; two attempts may fail.
start() {
    local deadline=$((SECONDS + ready_timeout))
    systemctl stop "$main"
    systemctl reset-failed "$main" 2>/dev/null || true # and its count of attempts
    systemctl start --no-block "$main" edge-llm-driver.path
    while [ "$(of_main ActiveState)" != active ]; do
        if [ "$(of_main NRestarts)" -ge 2 ] || [ "$(of_main ActiveState)" = failed ] ||
            [ $SECONDS -ge $deadline ]; then return 1; fi
        sleep 0.2
    done
}

bring_up() {
    local began=$SECONDS
    if [ "$changed" = no ] && [ "$(of_main ActiveState)" = active ]; then
        say "nothing to do: it runs"
        return
    fi
    if [ "$dry_run" = yes ]; then
        say "would start it"
        return
    fi
    say "start it; the model is being loaded"
    if start; then
        say "ready after $((SECONDS - began)) s: $(of_main StatusText)"
        return
    fi
    say "it does not get ready; the journal says:" >&2
    journalctl -u "$main" -n 15 -o cat --no-pager >&2 || true
    if [ -z "$current" ] || [ "$current" = "$program" ]; then
        fail "edge-llm does not start; see journalctl -u ${main%.service}"
    fi
    say "go back to ${current#"$D"}" >&2
    use "$current"
    rm -rf "$program"
    [ -e "$opt/edge-llm.previous" ] || rm -f "$opt/edge-llm.previous"
    start || fail "the version before does not get ready either; see journalctl -u ${main%.service}"
    fail "${program##*/} does not get ready, and is removed; ${current##*/} runs again"
}

forget_old_versions() {
    local directory
    [ "$program" = "$current" ] || [ -z "$current" ] ||
        link "$(basename "$current")" "$opt/edge-llm.previous"
    for directory in "$opt"/edge-llm-*/; do
        directory=${directory%/}
        case $(basename "$directory") in
        "$(basename "$program")" | "$(readlink "$opt/edge-llm.previous" || true)") ;;
        *) [ ! -e "$directory/pyvenv.cfg" ] || run "remove ${directory#"$D"}" rm -rf "$directory" ;;
        esac
    done
}

say_what_next() {
    cat <<'END'

It runs, and starts with the machine. Ask it:

  mosquitto_sub -R -t llm/response/button7 -C 1 & sleep 1; mosquitto_pub -t llm/request/button7 -m 'Who are you?'

  its settings         /etc/edge-llm/edge-llm.toml, then: systemctl reload edge-llm (or restart)
  what it does         journalctl -fu edge-llm, edge-llm watch, http://127.0.0.1:8000/
  what may be wrong    edge-llm doctor
END
}
