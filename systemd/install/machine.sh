# What the service finds on the machine: its user, settings, secrets, broker.
# shellcheck shell=bash disable=SC2034,SC2154  # sourced by ../install.sh, whose variables these are

make_user() {
    if [ -n "$D" ]; then
        mkdir -p "$D/etc/edge-llm" "$D/etc/credstore" "$D/var/lib/edge-llm/models"
        return
    fi
    if ! getent passwd edge-llm >/dev/null; then
        run "make the user and group edge-llm" systemd-sysusers edge-llm.conf
    fi
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] &&
        ! id -nG "$SUDO_USER" | grep -qw edge-llm; then
        run "add $SUDO_USER to the group edge-llm (from the next login on)" \
            usermod -aG edge-llm "$SUDO_USER"
    fi
    [ "$dry_run" = yes ] || systemd-tmpfiles --create edge-llm.conf
}

make_settings() {
    local default=$program/share/edge-llm/edge-llm.toml
    if [ -e "$settings" ]; then
        say "${settings#"$D"} is left as it is; all settings there are: ${default/$program//opt/edge-llm}"
        if [ -n "$model" ] && [ "$from_package" = no ]; then
            say "for another model change 'model' there, in [engine.worker]"
        fi
    else
        run "write ${settings#"$D"}" install -D -m 0640 "$default" "$settings"
        changed=yes
        [ -z "$model" ] || take_model
    fi
    [ -n "$D" ] || [ "$dry_run" = yes ] || systemd-tmpfiles --create edge-llm.conf
}

take_model() {
    local name=$model
    if [ -d "$model" ]; then
        name=$(basename "$(realpath "$model")")
        # The service sees no home directory.
        run "copy the model to /var/lib/edge-llm/models/$name" \
            cp -r --reflink=auto "$(realpath "$model")" "$D/var/lib/edge-llm/models/$name"
    else
        run "download the model $name" "$program/bin/python" -m edge_llm model get "$name"
    fi
    run "set model = \"$name\"" sed -i \
        "/^\[engine\.worker\]/,/^\[/ s|^#model =.*|model = \"$name\"|" "$settings"
    [ "$dry_run" = yes ] || grep -qxF "model = \"$name\"" "$settings" ||
        fail "$settings has no [engine.worker] to put the model into"
}

check_settings() {
    local said
    if [ "$dry_run" = yes ] || [ -n "$D" ]; then return; fi
    if said=$("$program/bin/python" -m edge_llm settings --check "$settings" 2>&1); then return; fi
    say "$said" >&2
    [ "$program" = "$current" ] || rm -rf "$program"
    fail "${program#"$opt/"} can't do with these settings; nothing else is changed"
}

take_credentials() {
    local each name file
    for each in "${credentials[@]+"${credentials[@]}"}"; do
        name=${each%%=*} file=${each#*=}
        cmp -s "$file" "$D/etc/credstore/edge-llm.$name" && continue
        run "keep the secret $name in /etc/credstore" put_secret "$file" "edge-llm.$name"
        changed=yes
    done
}

put_secret() {
    install -d -m 0700 "$D/etc/credstore"
    install -m 0600 "$1" "$D/etc/credstore/$2"
}

other_listeners() {
    grep -lE '^[[:space:]]*(listener|port)[[:space:]]' "$D/etc/mosquitto/mosquitto.conf" \
        "$D"/etc/mosquitto/conf.d/*.conf 2>/dev/null | grep -v '/edge-llm[^/]*\.conf$' || true
}

make_broker() {
    local new=$program/share/edge-llm/mosquitto/edge-llm.conf
    local old=${current:-$program}/share/edge-llm/mosquitto/edge-llm.conf
    local file=$D/etc/mosquitto/conf.d/edge-llm.conf others
    [ "$mosquitto" = yes ] || return 0
    others=$(other_listeners)
    if [ -n "$others" ]; then
        say "mosquitto has listeners of its own, in ${others//$'\n'/, }; compare with" \
            "/opt/edge-llm/share/edge-llm/mosquitto/edge-llm.conf"
    elif cmp -s "$new" "$file"; then
        return 0
    elif [ -e "$file" ] && ! cmp -s "$old" "$file"; then
        say "${file#"$D"} has been changed here, and is left as it is"
    else
        run "write ${file#"$D"}" install -D -m 0644 "$new" "$file"
        if ! is_live || ! has_package mosquitto; then return; fi
        run "restart mosquitto" systemctl restart mosquitto || {
            rm -f "$file"
            systemctl restart mosquitto || true
            fail "mosquitto does not take ${file#"$D"}, which is away again; see journalctl -u mosquitto"
        }
    fi
}
