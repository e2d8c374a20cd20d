#!/usr/bin/env bash
# Installs edge-llm as a service on Debian 12 or 13, or Raspberry Pi OS; see --help and
# docs/deployment.md. It can be run again at any time: what is as it should be is left alone.
#
# Each version of the programs is a virtual environment of its own, /opt/edge-llm-VERSION-N, with the
# units that go with it; /opt/edge-llm is a link to the one that runs, and /opt/edge-llm.previous to
# the one before. So going back is a matter of two links.
set -euo pipefail
export LC_ALL=C.UTF-8
umask 022

usage() {
    cat <<'END'
Usage: install.sh [options]
Installs edge-llm as a service of this machine, or brings it up to date; run it as root.

What is installed:
  (nothing said)         the clone that this script is in, with requirements.lock
  --wheel FILE           this wheel of edge-llm
  --wheelhouse DIR       from the wheels in this directory, without a network
  --axengine WHEEL       AXERA's Python package, too; kept on upgrades
  --extra NAME           what pyproject.toml calls an extra (osc); kept on upgrades
  --model NAME|DIR       on a new machine: download this model, or take this directory
  --credential NAME=FILE a secret for the service: mqtt-password, nats-password
                         or openai-api-key
  --no-mosquitto         the broker is elsewhere, or is not to be touched
  --no-start             don't start it, nor again
  --ready-timeout S      how long it may take to load the model (600)

Instead:
  --back                 go back to the version before
  --uninstall            remove it; settings, secrets, models and conversations stay
  --uninstall --purge    remove those, and the user, too
  --dry-run              say what would be done
  --help

DESTDIR=DIR in the environment installs into an image of a system; nothing is started, no packages
are installed, and the image makes the user when it is booted.
END
}

die_of_usage() {
    usage >&2
    exit 2
}

D=${DESTDIR:-}
D=${D%/}
opt=$D/opt
units=$D/etc/systemd/system
settings=$D/etc/edge-llm/edge-llm.toml
here=$(dirname "$(realpath "$0")")
tree=$(dirname "$here")
main=edge-llm.service
action=install_all dry_run=no purge=no start=yes mosquitto=yes from_package=no ready_timeout=600
wheel='' wheelhouse='' axengine='' model='' extras=() credentials=()
room_kb=1000000 # a version has 430 MB, and pip unpacks beside it
changed=no changed_files='' current='' program='' unfinished=''

while [ $# -gt 0 ]; do
    option=$1
    value=
    case $option in
    --wheel | --wheelhouse | --axengine | --extra | --model | --credential | --ready-timeout)
        [ -n "${2:-}" ] || die_of_usage
        value=$2
        shift
        ;;
    esac
    shift
    case $option in
    --wheel) wheel=$(realpath -e "$value") ;;
    --wheelhouse) wheelhouse=$(realpath -e "$value") ;;
    --axengine) axengine=$(realpath -e "$value") ;;
    --extra) extras+=("$value") ;;
    --model) model=$value ;;
    --credential)
        case $value in
        mqtt-password=* | nats-password=* | openai-api-key=*) credentials+=("${value%%=*}=$(realpath -e "${value#*=}")") ;;
        *) die_of_usage ;;
        esac
        ;;
    --ready-timeout) ready_timeout=$value ;;
    --no-mosquitto) mosquitto=no ;;
    --no-start) start=no ;;
    --package) from_package=yes ;; # by the scripts of a Debian package: files and settings are dpkg's
    --back) action=go_back ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage && exit ;;
    *) die_of_usage ;;
    esac
done

# shellcheck source=systemd/install/files.sh
. "$here/install/files.sh"
# shellcheck source=systemd/install/programs.sh
. "$here/install/programs.sh"
# shellcheck source=systemd/install/machine.sh
. "$here/install/machine.sh"
# shellcheck source=systemd/install/service.sh
. "$here/install/service.sh"

install_all() {
    local packages=(python3-venv)
    [ "$mosquitto" = no ] || packages+=(mosquitto mosquitto-clients)
    install_packages "${packages[@]}"
    check_python
    adopt_handmade
    make_programs
    [ ! -e "$settings" ] || check_settings
    if [ "$dry_run" = yes ] && [ ! -e "$program" ]; then
        say "would write the units, the rules for the card's devices and the limits of the journal,"
        say "would make the user, and ${settings#"$D"} if it is not there,"
        say "would set up mosquitto, start the service, and wait until it is ready"
        return
    fi
    use "$program"
    make_user
    make_settings
    take_credentials
    make_broker
    [ "$changed" = no ] || reload_others
    enable_units
    if is_live && [ "$start" = yes ]; then
        bring_up
    else
        say "it is not started"
    fi
    forget_old_versions
    [ "$dry_run" = yes ] || ! is_live || [ "$start" = no ] || say_what_next
}

# A virtual environment that somebody made as /opt/edge-llm goes on working behind the link.
adopt_handmade() {
    if [ ! -d "$opt/edge-llm" ] || [ -L "$opt/edge-llm" ]; then return; fi
    run "move /opt/edge-llm to /opt/edge-llm-0-1" mv -T "$opt/edge-llm" "$opt/edge-llm-0-1"
    [ "$dry_run" = yes ] || replace_link edge-llm-0-1 "$opt/edge-llm"
}

go_back() {
    local previous
    current=$(readlink "$opt/edge-llm" || true)
    previous=$(readlink "$opt/edge-llm.previous" || true)
    if [ -z "$previous" ] || [ ! -d "$opt/$previous" ]; then fail "there is no version before"; fi
    current=$opt/$current program=$opt/$previous changed=yes
    use "$program"
    enable_units
    if is_live && [ "$start" = yes ]; then bring_up; fi
    link "$(basename "$current")" "$opt/edge-llm.previous"
}

uninstall() {
    local destination directory old=$opt/edge-llm/share/edge-llm/mosquitto/edge-llm.conf
    local snippet=$D/etc/mosquitto/conf.d/edge-llm.conf
    local unit_names=(edge-llm.service edge-llm-http.service edge-llm-driver.path
        edge-llm-driver.service)
    if is_live; then
        run "stop it" systemctl stop "${unit_names[@]}" 2>/dev/null || true
    fi
    run "disable it" systemctl ${D:+--root="$D"} -q disable "${unit_names[@]}" 2>/dev/null || true
    if cmp -s "$old" "$snippet"; then
        run "remove ${snippet#"$D"}" rm -f "$snippet"
        if is_live && has_package mosquitto; then
            run "restart mosquitto" systemctl restart mosquitto || true
        fi
    elif [ -e "$snippet" ] && [ "$purge" = no ]; then
        say "${snippet#"$D"} has been changed here, and stays"
    fi
    if [ "$from_package" = no ]; then
        while read -r _ destination; do
            [ ! -e "$destination" ] || run "remove ${destination#"$D"}" rm -f "$destination"
        done < <(system_files)
        run "remove /usr/local/bin/edge-llm" rm -f "$D/usr/local/bin/edge-llm"
    fi
    for directory in "$opt"/edge-llm-*/; do
        [ ! -e "$directory/pyvenv.cfg" ] || run "remove ${directory#"$D"}" rm -rf "$directory"
    done
    run "remove /opt/edge-llm" rm -rf "$opt/edge-llm" "$opt/edge-llm.previous"
    [ "$purge" = no ] || purge_all
    ! is_live || run "tell systemd" systemctl daemon-reload
    [ "$purge" = yes ] ||
        say "what stays: /etc/edge-llm, /etc/credstore/edge-llm.*, /var/lib/edge-llm, the user edge-llm"
    say "Debian's packages stay as they are (python3-venv, mosquitto)"
}

purge_all() {
    run "remove settings, secrets, models and conversations" rm -rf "$D/etc/edge-llm" \
        "$D"/etc/credstore/edge-llm.* "$D/var/lib/edge-llm" "$D"/etc/systemd/system/edge-llm*.d \
        "$D"/etc/mosquitto/conf.d/edge-llm*.conf "$D"/etc/mosquitto/edge-llm.* \
        "$D"/etc/mosquitto/certs/edge-llm*
    if [ -z "$D" ] && getent passwd edge-llm >/dev/null; then
        run "remove the user edge-llm" userdel edge-llm
    fi
}

[ -n "$D" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $0"
[ "$purge" = no ] || [ "$action" = uninstall ] || fail "--purge goes with --uninstall"
trap '[ -z "$unfinished" ] || rm -rf "$unfinished"' EXIT
$action
