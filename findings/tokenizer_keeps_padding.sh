#!/usr/bin/env bash
# transformers 5.23.0: a fast tokenizer that is called with padding='max_length' and truncation=True, as every pipeline of diffusers
# calls its own, writes another tokenizer.json from then on: `padding` and `truncation` are those of the last call, where they were null.
# So a model that is saved after an image was made differs from the one that was loaded, though nothing was trained. A call without
# both puts null back. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q transformers==5.23.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PY'
import json
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = Tokenizer(models.WordLevel({'[UNK]': 0, '[PAD]': 1, 'red': 2, 'cone': 3}, unk_token='[UNK]'))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token='[UNK]', pad_token='[PAD]', model_max_length=8)
def saved(name):
    tokenizer.save_pretrained(name)
    said = json.loads(Path(name, 'tokenizer.json').read_text())
    return said['padding'], said['truncation']
fresh = saved('fresh')
tokenizer(['red cone'], padding='max_length', truncation=True)
used = saved('used')
tokenizer(['red cone'], padding=False, truncation=False)
again = saved('again')
for name, said in (('fresh', fresh), ('after a padded call', used), ('after a call without', again)): print(name, *said)
assert fresh == again == (None, None)
assert used[0]['strategy'] == {'Fixed': 8} and used[1]['max_length'] == 8
PY
