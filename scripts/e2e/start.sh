# What every test file begins with (sourced): a world with a running daemon.
#
#   . "$(dirname "$0")/start.sh" [PACKAGE…]
#
# sets up a world with two workers and one service for each forwarding mode. A file that
# wants another configuration sets E2E_CONFIG to the name of a function that prints it,
# E2E_NO_DAEMON=1 to start the daemon itself.
# shellcheck shell=bash
set -uo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usual_config() {
    daemon_config 2
    daemon_services
}

need_tap
install_packages "${WORLD_PACKAGES[@]}" "$@"
binaries
world_up "t$(basename "$0" | cut -c1-2)-"
world_ready
"${E2E_CONFIG:-usual_config}" >"$WORLD_DIR/pollux.toml"
[ -n "${E2E_NO_DAEMON:-}" ] || daemon_start
