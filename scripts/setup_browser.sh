#!/bin/sh
# Installs Debian's chromium, which the tests of the service's page drive. Instant when there is one. Never fails: without a browser
# those tests are skipped and say what to install.
set -eu
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "  no Chromium here: the tests of the page will be skipped (Debian: apt-get install chromium)"
    exit 0
fi
echo "  installing chromium for the tests of the page …"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
install="timeout 300 apt-get -q -y -o DPkg::Lock::Timeout=60 install --no-install-recommends chromium"
# The lists that are there may do; they are fetched only when they don't.
if $install >"$log" 2>&1 || { timeout 120 apt-get -q update >>"$log" 2>&1 && $install >>"$log" 2>&1; }; then
    rm -f "$log"
else
    echo "  apt-get could not install chromium: the tests of the page will be skipped (its output: $log)"
fi
