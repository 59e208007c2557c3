#!/usr/bin/env bash
# datasets 5.2.0 with pyarrow 26.0.1: texts in a JSON-lines file become dates where all of them look like dates, and whole numbers
# become floats where one needs 64 bits without a sign, so that another number comes back. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1
HF_DATASETS_OFFLINE=1 HF_HOME="$work/home" "$work/env/bin/python" - "$work/rows.jsonl" <<'PY'
import json, sys
from pathlib import Path
from datasets import load_dataset, disable_progress_bars
disable_progress_bars()

def read(i, vals):
    "The values of a column as they come back, and the column's type"
    path = Path(f'{sys.argv[1]}.{i}.jsonl')
    path.write_text(''.join(json.dumps({'v': v}) + '\n' for v in vals))
    col = load_dataset('json', data_files=str(path), split='train')
    return str(col.features['v']), list(col['v'])

for i, vals in enumerate((['2022-11-15', '2022-11-20'], ['2022-11-15', 'a star'], [7, 2**63 + 1], [7, 2**62 + 1])): print(vals, '->', read(i, vals))
assert 'timestamp' in read(10, ['2022-11-15', '2022-11-20'])[0] and read(11, ['2022-11-15', 'a star'])[1] == ['2022-11-15', 'a star']
kind, back = read(12, [2**62 + 1, 2**63 + 1])
assert 'float64' in kind and int(back[0]) != 2**62 + 1 and read(13, [7, 2**62 + 1])[1] == [7, 2**62 + 1]
PY
