#!/bin/sh
# Installs the C library: libcrosvm_plugin.so and .a, crosvm.h, and crosvm_plugin.pc for pkg-config. Debug information of the shared
# library lies apart, in .debug beside it.
set -eu

usage() {
    cat <<'USAGE'
Usage: install.sh [--prefix DIR] [--libdir DIR] [--includedir DIR] [--from DIR]

  --prefix DIR      where to install; /usr/local if not given
  --libdir DIR      for the libraries; PREFIX/lib if not given
  --includedir DIR  for the header; PREFIX/include if not given
  --from DIR        where the libraries were built; target/release if not given

The environment variable DESTDIR is put before all of them, for packages. Build first: cargo build --release
USAGE
}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/usr/local
libdir=
includedir=
from=${CARGO_TARGET_DIR:-$here/../../target}/release

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --prefix | --libdir | --includedir | --from)
        [ $# -ge 2 ] || fail "$1 wants a folder"
        name=${1#--}
        value=$2
        shift 2
        ;;
    --prefix=* | --libdir=* | --includedir=* | --from=*)
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
    # A program finds the library by these paths from wherever it is.
    case $value in
    /*) ;;
    *) value=$PWD/$value ;;
    esac
    case $name in
    prefix) prefix=$value ;;
    libdir) libdir=$value ;;
    includedir) includedir=$value ;;
    from) from=$value ;;
    esac
done
libdir=${libdir:-$prefix/lib}
includedir=${includedir:-$prefix/include}
destdir=${DESTDIR:-}

for library in libcrosvm_plugin.so libcrosvm_plugin.a; do
    [ -f "$from/$library" ] || fail "$from/$library is not there; build it first: cargo build --release"
done
version=$(awk '/^#define CROSVM_API_(MAJOR|MINOR|PATCH) / { printf "%s%s", dot, $3; dot = "." }' "$here/include/crosvm.h")

mkdir -p "$destdir$libdir/pkgconfig" "$destdir$includedir"
stripped=$here/../../dist/install-stripped
"$stripped" 755 "$from/libcrosvm_plugin.so" "$destdir$libdir/libcrosvm_plugin.so"
"$stripped" 644 "$from/libcrosvm_plugin.a" "$destdir$libdir/libcrosvm_plugin.a"
install -m 644 "$here/include/crosvm.h" "$destdir$includedir/crosvm.h"
cat >"$destdir$libdir/pkgconfig/crosvm_plugin.pc" <<PC
prefix=$prefix
libdir=$libdir
includedir=$includedir

Name: crosvm_plugin
Description: Plugins for the virtual machine monitor Outboard, by the plugin API of crosvm
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lcrosvm_plugin
Libs.private: -lutil -lrt -lpthread -lm -ldl
PC
chmod 644 "$destdir$libdir/pkgconfig/crosvm_plugin.pc"

printf '%s\n' "$destdir$includedir/crosvm.h" "$destdir$libdir/pkgconfig/crosvm_plugin.pc"
