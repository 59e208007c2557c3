#!/usr/bin/env bash
# fastcore 1.14.5: `delegates` gives a function the parameters of a dataclass, as `inspect.signature` shows, but then `docments(f, full=True)`,
# which nbdev's pages are made with, raises OSError: it looks for the source of the `__init__` that `dataclass` has made, of which there is
# none. `docments` of the dataclass itself finds the comments, as does that of a function that delegates to a class with an `__init__`
# written out. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q fastcore==1.14.5
cat > "$work/made.py" <<'PY'
from dataclasses import dataclass
from fastcore.meta import delegates

@dataclass
class Made:
    "Fields with comments"
    steps:int=50 # Number of steps
    width:int=64 # Width in pixels

class Written:
    "The same, written out"
    def __init__(self,
        steps:int=50, # Number of steps
        width:int=64, # Width in pixels
    ): self.steps, self.width = steps, width

@delegates(Made)
def of_made(prompt, # What to show
            **kwargs): pass

@delegates(Written)
def of_written(prompt, # What to show
               **kwargs): pass
PY
cat > "$work/tried.py" <<'PY'
from inspect import signature
from fastcore.docments import docments
from made import Made, of_made, of_written

def said(f):
    try: return docments(f, full=True)['steps']['docment']
    except OSError as e: return f'OSError: {e}'

for f in (Made, of_written, of_made): print(f.__name__, list(signature(f).parameters), '->', said(f))
assert said(Made) == said(of_written) == 'Number of steps'
assert said(of_made).startswith('OSError') and 'width' in signature(of_made).parameters
PY
"$work/env/bin/python" "$work/tried.py"
