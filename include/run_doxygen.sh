#!/bin/sh
# run_doxygen.sh SOURCE_DIR OUTPUT_DIR: writes OUTPUT_DIR/html. Fails when Doxygen warns, with the
# warnings as its output; 77, which test runners take for "skipped", where there is no Doxygen.
command -v doxygen >/dev/null || {
    echo "there is no doxygen"
    exit 77
}
mkdir -p "$2" && cd "$1" && DOXYGEN_OUTPUT=$2 doxygen include/Doxyfile
