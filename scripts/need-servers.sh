#!/bin/sh
# Makes sure that Redis >= 7.0 (or Valkey >= 7.2) and Postgres >= 14 are on this machine, for
# `flashgate dev` and the tests. Says nothing when they are; else installs them with apt-get or
# Homebrew, without leaving any system service running that was not there before.
set -eu

# Prints the major and minor version that "$1 --version" tells, as one number: 7.0.15 -> 700.
version() {
    "$1" --version 2>/dev/null |
        sed -n 's/^[^0-9]*\([0-9][0-9]*\)\.\{0,1\}\([0-9]*\).*/\1 \2/p' |
        { read -r major minor && echo $((major * 100 + ${minor:-0})); }
}

# Whether "$1" is a program of version $2 or newer.
is_fit() {
    [ -x "$1" ] && found=$(version "$1") && [ "${found:-0}" -ge "$2" ]
}

# The places are those that `flashgate dev` searches.
have_redis() {
    for dir in $(echo "$PATH" | tr ':' ' ') /usr/bin /usr/local/bin /opt/homebrew/bin \
        /opt/homebrew/opt/redis*/bin /opt/homebrew/opt/valkey*/bin \
        /usr/local/opt/redis*/bin /usr/local/opt/valkey*/bin; do
        if is_fit "$dir/redis-server" 700 || is_fit "$dir/valkey-server" 702; then
            return 0
        fi
    done
    return 1
}

have_postgres() {
    for dir in $(echo "$PATH" | tr ':' ' ') /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /usr/local/bin /opt/homebrew/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin /Applications/Postgres.app/Contents/Versions/*/bin; do
        if is_fit "$dir/postgres" 1400 && [ -x "$dir/initdb" ] && [ -x "$dir/psql" ]; then
            return 0
        fi
    done
    return 1
}

say() {
    echo "need-servers: $*" >&2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    # Without root, sudo passes no environment on: the variable is set behind it.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 \
        install --no-install-recommends "$@"
}

# Debian's packages start their services as soon as they are unpacked, unless this file says no.
policy=/usr/sbin/policy-rc.d
made_policy=

forbid_services() {
    [ -e "$policy" ] && return
    made_policy=yes
    trap 'allow_services' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

allow_services() {
    if [ -n "$made_policy" ]; then
        as_root rm -f "$policy"
        made_policy=
    fi
}

# Nor are they to come up at the next boot.
disable_service() {
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --quiet "$1" || say "could not disable the service $1"
    fi
}

install_with_apt() {
    say "apt-get update"
    as_root apt-get -qq update
    forbid_services
    if ! have_redis; then
        for package in redis-server valkey-server; do
            # Candidates look like 5:7.0.15-1; the digits up to the first dot behind the epoch count.
            candidate=$(apt-cache policy "$package" |
                sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9]*\)\..*/\2/p')
            if [ "${candidate:-0}" -ge 7 ]; then
                say "installing $package"
                apt_install "$package"
                disable_service "$package"
                break
            fi
        done
    fi
    if ! have_postgres; then
        say "installing postgresql"
        apt_install postgresql
        disable_service postgresql
    fi
    allow_services
}

install_with_brew() {
    have_redis || { say "brew install redis"; brew install --quiet redis; }
    have_postgres || { say "brew install postgresql@17"; brew install --quiet postgresql@17; }
}

if have_redis && have_postgres; then
    exit 0
fi
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
        say "Redis >= 7.0 and Postgres >= 14 are needed; as root: apt-get install redis-server postgresql"
        exit 1
    fi
    install_with_apt
elif command -v brew >/dev/null 2>&1; then
    install_with_brew
fi
have_redis || {
    say "Redis >= 7.0 or Valkey >= 7.2 is needed and could not be installed from this machine's packages;" \
        "see https://redis.io/docs/latest/operate/oss_and_stack/install/"
    exit 1
}
have_postgres || {
    say "Postgres >= 14 (with initdb and psql) is needed and could not be installed from this machine's" \
        "packages; see https://www.postgresql.org/download/"
    exit 1
}
say "Redis and Postgres are there"
