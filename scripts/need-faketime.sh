#!/bin/sh
# Makes sure that libfaketime is on this machine, for the two faults of the drill that move a gateway's clock. Where it
# can't be installed it says so and goes on: the drill leaves them out, and tells.
set -eu

for library in /usr/lib/faketime /usr/lib64/faketime /usr/local/lib/faketime /usr/lib/*/faketime; do
    if [ -f "$library/libfaketimeMT.so.1" ]; then
        exit 0
    fi
done

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if command -v apt-get >/dev/null 2>&1 && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null 2>&1; }; then
    echo "need-faketime: installing faketime" >&2
    if as_root apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 install \
            --no-install-recommends faketime; then
        exit 0
    fi
fi
echo "need-faketime: it could not be installed; the drill moves no clocks" >&2
