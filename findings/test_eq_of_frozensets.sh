#!/usr/bin/env bash
# fastcore 1.14.5: `test_eq` compares two equal frozensets item by item in the order in which they are gone through, so that it fails where
# that order differs; of texts it differs from process to process. Sets and dicts are compared as they are. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q fastcore==1.14.5
cat > "$work/tried.py" <<'PY'
from fastcore.test import test_eq

def passes(a, b):
    try: test_eq(a, b)
    except AssertionError: return False
    return True

a, b = frozenset([0, 8]), frozenset([8, 0])
print(a == b, list(a), list(b), 'frozensets', passes(a, b), 'sets', passes(set(a), set(b)), 'one of each', passes(a, set(b)))
assert a == b and not passes(a, b)
assert passes(set(a), set(b)) and passes(a, set(b)) and passes({a: 1}, {b: 1})
PY
"$work/env/bin/python" "$work/tried.py"
