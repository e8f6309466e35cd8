#!/bin/sh
# Shows that a page of the event ledger costs the same wherever it lies: plants so many events (5,000,000 where nothing
# else is said) in a database of its own, reads pages at the beginning and at 3/10, 6/10 and 8/10 through every filter,
# and prints the buffers and rows that Postgres counts for each. Takes some minutes and 3 GB under the temporary
# directory, which it gives back.
#
#     scripts/many-events.sh [EVENTS]
set -eu
cd "$(dirname "$0")/.."
FLASHGATE_TEST_EVENTS=${1:-5000000} cargo test -p flashgate --test it \
    events::many::a_deep_page_costs_what_the_first_one_does -- --exact --nocapture
