#!/usr/bin/env bash
# Optuna 5.0.0: a JournalFileBackend whose last line is torn (a full disk, a power cut) still opens, and its trials are there. But the next
# line is added to the torn one, and from then on every line behind it is lost: the storage raises at each read, and no trial can be
# told, asked or listed any more. Cutting the torn line off first would keep all. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q optuna==5.0.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import optuna
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)

def study():
    storage = optuna.storages.JournalStorage(JournalFileBackend('j.log'))
    return optuna.create_study(storage=storage, study_name='s', load_if_exists=True)

study().optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=3)
whole = open('j.log', 'rb').read()
open('j.log', 'ab').write(b'{"op_code":')
torn = len(study().get_trials())
try: study().optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=1)
except Exception as e: said = type(e).__name__
else: said = 'nothing'
try: after = len(study().get_trials())
except Exception as e: after = type(e).__name__
open('j.log', 'wb').write(whole)
study().optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=1)
print(torn, said, after, len(study().get_trials()))
assert torn == 3 and said != 'nothing' and not isinstance(after, int) and len(study().get_trials()) == 4
PY
