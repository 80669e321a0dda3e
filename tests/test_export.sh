#!/bin/sh
# golden/export.py against the tensors that the paper's code produced, where PyTorch is there.
# Exit status 77 (skipped) where it is not.
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import numpy, torch' 2>/dev/null; then
        exec "$python" "$FLASHBLOCK_SOURCE_ROOT/golden/export.py" --check "$FLASHBLOCK_SOURCE_ROOT/golden/paper"
    fi
done
echo "skipped: no python3 here has torch and numpy (python3-torch, python3-numpy)"
exit 77
