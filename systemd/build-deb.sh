#!/usr/bin/env bash
# Builds dist/edge-llm_VERSION_ARCH.deb: edge-llm and all the wheels that it needs, for this kind of
# machine and this version of Python, so that it installs without an index of Python packages.
#
#   systemd/build-deb.sh            # with python3
#   PYTHON=python3.13 systemd/build-deb.sh
#
# Installing it makes the virtual environment from the wheels, by the same steps as install.sh.
set -euo pipefail
umask 022
here=$(dirname "$(realpath "$0")")
tree=$(dirname "$here")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
share=$root/usr/share/edge-llm

say() { printf 'build-deb: %s\n' "$*"; }

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/edge_llm/__init__.py")
architecture=$(dpkg --print-architecture)
minor=$("$python" -c 'import sys; print(sys.version_info[1])')

say "wheels of edge-llm $version for Python 3.$minor on $architecture"
"$python" -m venv "$work/venv"
pip=("$work/venv/bin/pip" --disable-pip-version-check -q)
mkdir -p "$share/wheels"
"${pip[@]}" wheel --only-binary :all: --no-binary edge-llm --progress-bar off \
    -c "$tree/requirements.lock" -w "$share/wheels" "$tree"
"${pip[@]}" --isolated install --no-compile --no-index --find-links "$share/wheels" edge-llm

say "files"
cp -r "$here" "$share/systemd"
cp -r "$tree/mosquitto" "$share/mosquitto"
rm -rf "$share/systemd/debian" "$share/systemd/build-deb.sh"
place() { install -D -m "${3:-644}" "$1" "$root/$2"; }
for unit in "$here"/*.service "$here"/*.path; do place "$unit" "usr/lib/systemd/system/${unit##*/}"; done
place "$here/edge-llm.sysusers" usr/lib/sysusers.d/edge-llm.conf
place "$here/edge-llm.tmpfiles" usr/lib/tmpfiles.d/edge-llm.conf
place "$here/edge-llm.udev" usr/lib/udev/rules.d/99-edge-llm.rules
place "$here/edge-llm.journald" usr/lib/systemd/journald.conf.d/edge-llm.conf
cat >"$work/copyright" <<'END'
Copyright: the edge-llm authors
License: Apache-2.0, see /usr/share/common-licenses/Apache-2.0. The wheels in
/usr/share/edge-llm/wheels have licenses of their own, inside.
END
place "$work/copyright" usr/share/doc/edge-llm/copyright
gzip -9 -n <"$tree/CHANGELOG.md" >"$work/changelog.gz"
place "$work/changelog.gz" usr/share/doc/edge-llm/changelog.gz
"$work/venv/bin/python" -m edge_llm settings >"$work/edge-llm.toml"
place "$work/edge-llm.toml" etc/edge-llm/edge-llm.toml
mkdir -p "$root/usr/bin"
ln -s /opt/edge-llm/bin/edge-llm "$root/usr/bin/edge-llm"

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "$here/debian/$script" "$root/DEBIAN/"; done
echo /etc/edge-llm/edge-llm.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<END
Package: edge-llm
Version: $version
Architecture: $architecture
Maintainer: The edge-llm authors <edge-llm@localhost>
Section: net
Priority: optional
Installed-Size: $(du -ks --exclude=DEBIAN "$root" | cut -f1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), python3-venv, systemd (>= 252)
Recommends: mosquitto, mosquitto-clients
Description: language model for art installations over MQTT and HTTP
 The service that lets an art installation talk: requests come in over MQTT
 or HTTP, a language model answers on an AXERA AX650 card or a CPU, and its
 health is on retained topics.
 .
 The Python packages that it needs are inside, and are installed into a
 virtual environment of its own below /opt.
END
(cd "$root" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z |
    xargs -0 md5sum >DEBIAN/md5sums)

mkdir -p "$tree/dist"
deb=$tree/dist/edge-llm_${version}_$architecture.deb
# Wheels are packed already; there is little to win.
dpkg-deb --root-owner-group -Zxz -z0 --build "$root" "$deb" >/dev/null
say "made ${deb#"$PWD/"} ($(du -h "$deb" | cut -f1))"
