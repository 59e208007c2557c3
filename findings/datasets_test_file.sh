#!/usr/bin/env bash
# datasets 5.2.0: an image folder of three images is read as its three images. One more file whose name begins with "test" makes
# the whole data set a split of that name, with that file alone: the other three are gone, with no word said.
# The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q datasets==5.2.0 pillow==13.0.0
HF_DATASETS_OFFLINE=1 HF_HOME="$work/home" "$work/env/bin/python" - "$work/folder" <<'PY'
import sys, shutil
from pathlib import Path
from PIL import Image
from datasets import load_dataset, disable_progress_bars
disable_progress_bars()

def splits(names):
    "The splits of a folder with these images, and how many images each has"
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(folder/name)
    return {k: len(v) for k, v in load_dataset('imagefolder', data_dir=str(folder)).items()}

three = ['images/a.png', 'images/b.png', 'images/c.png']
print(splits(three), splits([*three, 'test.png']))
assert splits(three) == {'train': 3} and splits([*three, 'test.png']) == {'test': 1}
PY
