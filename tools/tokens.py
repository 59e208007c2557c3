"A CLIP tokenizer for a small world, in which each word is one token"
import json
from collections import Counter
from transformers import CLIPTokenizer

def merge(parts, pair):
    "Join each `pair` of neighbours in `parts`"
    out = []
    for p in parts: out[-1:] = [out[-1] + p] if out and (out[-1], p) == pair else [*out[-1:], p]
    return out

def merges(words):
    "Merge the most frequent pair again and again, until each word is one token"
    parts, found = [[*w[:-1], w[-1] + '</w>'] for w in words], []
    while pairs := Counter(p for w in parts for p in zip(w, w[1:])):
        found.append(max(sorted(pairs), key=pairs.get))
        parts = [merge(w, found[-1]) for w in parts]
    return found

def make_tokenizer(words, path, maxlen=24):
    "Write a CLIP tokenizer for `words` and load it"
    pairs, chars = merges(words), [chr(c) for c in range(33, 127)]
    tokens = dict.fromkeys(
        [*chars, *(c + '</w>' for c in chars), *(a + b for a, b in pairs), '<|startoftext|>', '<|endoftext|>'])
    path.mkdir(parents=True, exist_ok=True)
    (path/'vocab.json').write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (path/'merges.txt').write_text('#version: 0.2\n' + '\n'.join(map(' '.join, pairs)) + '\n')
    end = '<|endoftext|>'
    return CLIPTokenizer.from_pretrained(path, model_max_length=maxlen, bos_token='<|startoftext|>', eos_token=end,
                                         pad_token=end, unk_token=end)
