#!/bin/sh
# Makes the committed .ptx files from the .cu sources: clang 19 and nothing of any vendor's toolkit.
set -eu
cd "$(dirname "$0")"
for source in *.cu; do
    "${CLANG:-clang++-19}" -x cuda -std=c++17 -nocudainc -nocudalib --cuda-device-only --cuda-gpu-arch=sm_70 \
        --cuda-feature=+ptx70 -O2 -ffp-contract=on -fno-exceptions -S -o "${source%.cu}.ptx" "$source"
done
