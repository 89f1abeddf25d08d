#!/bin/sh
# Installs the command `outboard`, its manual pages, and its completions for bash, fish and zsh.
set -eu

usage() {
    cat <<'USAGE'
Usage: install.sh [--prefix DIR] [--from DIR]

  --prefix DIR  where to install; /usr/local if not given
  --from DIR    where the command was built; target/release if not given

The environment variable DESTDIR is put before the prefix, for packages. Build first: cargo build --release
The C library has a script of its own: plugin-sdk/capi/install.sh
USAGE
}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/usr/local
from=${CARGO_TARGET_DIR:-$here/../target}/release

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --prefix | --from)
        [ $# -ge 2 ] || fail "$1 wants a folder"
        name=${1#--}
        value=$2
        shift 2
        ;;
    --prefix=* | --from=*)
        name=${1%%=*}
        name=${name#--}
        value=${1#*=}
        shift
        ;;
    *)
        usage >&2
        fail "unknown argument: $1"
        ;;
    esac
    case $name in
    prefix) prefix=$value ;;
    from) from=$value ;;
    esac
done
root=${DESTDIR:-}$prefix

[ -f "$from/outboard" ] || fail "$from/outboard is not there; build it first: cargo build --release"

# Each file, and where it goes.
put() {
    mkdir -p "$(dirname "$root/$2")"
    install -m 644 "$1" "$root/$2"
    printf '%s\n' "$root/$2"
}

mkdir -p "$root/bin"
"$here/install-stripped" 755 "$from/outboard" "$root/bin/outboard"
for page in "$here"/man/*.1; do
    put "$page" "share/man/man1/$(basename "$page")"
done
put "$here/completions/outboard.bash" share/bash-completion/completions/outboard
put "$here/completions/outboard.fish" share/fish/vendor_completions.d/outboard.fish
put "$here/completions/_outboard" share/zsh/site-functions/_outboard
