#!/usr/bin/env bash
# Installs the real servers the integration and browser tests run against, where that is allowed.
# Where it is not, exactly those tests are skipped and say why.
set -euo pipefail

packages=()
command -v prometheus >/dev/null && command -v promtool >/dev/null || packages+=(prometheus)
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || packages+=(prometheus-alertmanager)
command -v chromium >/dev/null || packages+=(chromium fonts-dejavu-core)
command -v chromedriver >/dev/null || packages+=(chromium-driver)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || packages+=(postgresql)
command -v g++ >/dev/null || packages+=(g++) # compiles the simulated accelerator
[ ${#packages[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "servers: not installed, tests that need them will be skipped: ${packages[*]}" >&2
    echo "servers: as root on Debian, run: apt-get install ${packages[*]}" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# A machine without systemd starts none of them; the tests start their own on loopback.
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
