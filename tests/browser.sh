#!/bin/sh
# Headless Chromium for the tests that look at pages; they skip with a reason where it cannot be had.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing chromium for the page tests"
    { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 ||
        echo "chromium could not be installed: the page tests will skip"
else
    echo "no chromium here: the page tests will skip (Debian: apt-get install chromium)"
fi
exit 0
