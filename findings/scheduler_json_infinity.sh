#!/usr/bin/env bash
# diffusers 0.42.1: DPMSolverMultistepScheduler().save_config writes "lambda_min_clipped": -Infinity into scheduler_config.json, with no
# option set. JSON has no such number (RFC 8259, section 6), so a reader that keeps to the standard refuses the file. Python's own
# reader takes it unless it is told not to. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PY'
import json
from pathlib import Path
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
def refuse(number): raise ValueError(f'{number} is no JSON')
def read(cls):
    cls().save_config(cls.__name__)
    text = Path(cls.__name__, 'scheduler_config.json').read_text()
    try: json.loads(text, parse_constant=refuse)
    except ValueError as e: return str(e)
    return 'is JSON'
for cls in (DDIMScheduler, DPMSolverMultistepScheduler): print(cls.__name__, read(cls))
assert read(DDIMScheduler) == 'is JSON' and read(DPMSolverMultistepScheduler) == '-Infinity is no JSON'
PY
