# Debian's packages, and the virtual environments of the programs.
# shellcheck shell=bash disable=SC2034,SC2154  # sourced by ../install.sh, whose variables these are

has_package() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }

install_packages() {
    local missing=() package
    if [ -z "$D" ] && [ "$from_package" = no ]; then
        for package in "$@"; do
            has_package "$package" || missing+=("$package")
        done
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    run "install Debian's ${missing[*]}" apt_install "${missing[@]}"
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get -q update
    quietly apt-get -q install -y --no-install-recommends "$@"
}

check_python() {
    [ "$dry_run" = yes ] && ! command -v python3 >/dev/null && return
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "edge-llm needs Python 3.11 or later, as Debian 12 has; here is $(python3 -V 2>&1)"
}

# What the programs are made of, in one number: the same number, the same programs.
fingerprint() {
    {
        python3 -V
        echo "$(uname -m) ${extras[*]-}"
        if [ -n "$wheelhouse" ]; then
            find "$wheelhouse" -name '*.whl' -print0 | sort -z | xargs -0 -r sha256sum
        elif [ -z "$wheel" ]; then
            (cd "$tree" && find edge_llm bridges pyproject.toml requirements.lock -type f \
                ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum)
        fi
        [ -z "$wheel" ] || sha256sum <"$wheel"
        [ -z "$axengine" ] || sha256sum <"$axengine"
        (cd "$tree" && find systemd mosquitto -type f -print0 | sort -z | xargs -0 sha256sum)
    } 2>&1 | sha256sum | cut -c1-32
}

version_of_source() {
    if [ -n "$wheel" ]; then
        basename "$wheel" | cut -d- -f2
    elif [ -n "$wheelhouse" ]; then
        find "$wheelhouse" -name 'edge_llm-*.whl' -printf '%f\n' | sort -V | tail -n 1 | cut -d- -f2
    else
        sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/edge_llm/__init__.py" 2>/dev/null || true
    fi
}

# Sets program to the directory of the programs, and makes it if it is not there.
make_programs() {
    local version number=1 new now
    current=$(readlink "$opt/edge-llm" || true)
    current=${current:+$opt/$current}
    if [ -z "$axengine" ] && [ -n "$current" ]; then
        axengine=$(find "$current/share/edge-llm" -name 'axengine-*.whl' 2>/dev/null | head -n 1)
    fi
    if [ ${#extras[@]} -eq 0 ] && [ -s "$current/share/edge-llm/extras" ]; then
        read -r -a extras <"$current/share/edge-llm/extras"
    fi
    now=$(fingerprint)
    if [ -n "$current" ] && [ "$(cat "$current/share/edge-llm/fingerprint" 2>/dev/null)" = "$now" ]; then
        say "the programs are up to date (${current#"$D"})"
        program=$current
        return
    fi
    version=$(version_of_source)
    [ -n "$version" ] || fail "no edge-llm found to install"
    while [ -e "$opt/edge-llm-$version-$number" ]; do number=$((number + 1)); done
    program=$opt/edge-llm-$version-$number
    run "make ${program#"$D"} (a few minutes)" build "$program" "$now"
    changed=yes
}

# build DIRECTORY FINGERPRINT
build() {
    local began=$SECONDS new=$1 share=$1/share/edge-llm source pip
    unfinished=$new
    mkdir -p "$opt"
    [ "$(df -k --output=avail "$opt" | tail -n 1)" -gt "$room_kb" ] ||
        fail "${opt#"$D"} needs $((room_kb / 1000)) MB of free space; see df -h"
    quietly python3 -m venv "$new"
    # All cores compile afterwards, at once.
    pip=("$new/bin/pip" --disable-pip-version-check install --no-compile --progress-bar off)
    if [ -n "$wheelhouse" ]; then
        source=edge-llm
        pip=("$new/bin/pip" --isolated --disable-pip-version-check install --no-compile
            --no-index --find-links "$wheelhouse")
    else
        source=${wheel:-$tree}
        [ ! -e "$tree/requirements.lock" ] || pip+=(--constraint "$tree/requirements.lock")
    fi
    [ ${#extras[@]} -eq 0 ] || source+="[$(IFS=,; echo "${extras[*]}")]"
    quietly "${pip[@]}" "$source" ${axengine:+"$axengine"}
    # The image's own path: what is in DESTDIR runs from /opt.
    if [ -n "$D" ]; then
        grep -rIlZ --exclude-dir=site-packages -F "$D" "$new/bin" "$new/pyvenv.cfg" |
            xargs -0 -r sed -i "s|$D||g" || true
    fi
    # What is not Python for this version (templates, old syntax) is no failure.
    "$new/bin/python" -m compileall -q -q -j 0 ${D:+-s "$D"} "$new/lib" >/dev/null || true

    mkdir -p "$share/systemd" "$share/mosquitto"
    cp -r "$tree"/systemd/. "$share/systemd/"
    cp -r "$tree"/mosquitto/. "$share/mosquitto/"
    [ ! -e "$tree/requirements.lock" ] || cp "$tree/requirements.lock" "$share/"
    [ -z "$axengine" ] || cp "$axengine" "$share/"
    echo "${extras[*]-}" >"$share/extras"
    "$new/bin/python" -m edge_llm settings >"$share/edge-llm.toml" || fail "it does not run"
    echo "$2" >"$share/fingerprint"
    unfinished=
    say "made in $((SECONDS - began)) s"
}

# use DIRECTORY: make a version the one that runs from the next start on.
use() {
    local file destination
    # One that was made by hand has nothing but programs.
    if [ "$from_package" = no ] && [ -d "$1/share/edge-llm" ]; then
        while read -r file destination; do
            put "$1/share/edge-llm/$file" "$destination" 0644
        done < <(system_files)
        link /opt/edge-llm/bin/edge-llm "$D/usr/local/bin/edge-llm"
    fi
    link "$(basename "$1")" "$opt/edge-llm"
    ! is_live || [ "$changed" = no ] || run "tell systemd" systemctl daemon-reload
}
