# Sourced, from the repository's root: takes the addresses of a running
# `flashgate dev` out of its dev.json, for run.sh and the goose program.
#   . loadtest/dev-env.sh           DEV_JSON: another file than .flashgate/dev.json
# Only what the caller has not set already is set.

dev_json=${DEV_JSON:-.flashgate/dev.json}
dev_value() { sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p" "$dev_json" | head -n 1; }

if [ -r "$dev_json" ]; then
  export FLASHGATE_REDIS_URL="${FLASHGATE_REDIS_URL:-$(dev_value redisUrl)}"
  export FLASHGATE_DATABASE_URL="${FLASHGATE_DATABASE_URL:-$(dev_value databaseUrl)}"
  export BASE_URL="${BASE_URL:-http://$(dev_value listen)}"
  export ADMIN_URL="${ADMIN_URL:-http://$(dev_value adminListen)}"
else
  echo "dev-env.sh: $dev_json can't be read: is flashgate dev running?" >&2
fi
unset dev_json
unset -f dev_value
