"Scores of images that another program made: each is made once, whoever is killed; of large ones few are in memory"
import csv, hashlib, inspect, random, re, shutil, time
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from cf_guidance import cli
from cf_guidance.evaluation import compare_scores, find_scores, open_pixels, pictures, read_scores, score_folder
from cf_guidance.evaluation import score_means
from cf_guidance.pieces.core import MODELS
from cf_guidance.worlds import ideal, prompt_set
from forks import Forks

CHILD = '''
import sys
from cf_guidance.evaluation import score_folder
score_folder(sys.argv[1], sys.argv[2], batch_size=8, progress=False)
'''
MINE = '''
"Notes each image that it is asked for"
import hashlib, os
LOG = {log!r}
def reward(images, prompts):
    marks = [hashlib.sha256(im.numpy().tobytes()).hexdigest() for im in images]
    fd = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, ''.join(f'{{m}}\\n' for m in marks).encode()); os.close(fd)
    return images.mean((1, 2, 3))
'''
METHODS, BATCH = (2., 5., 8.), 8

def tiny_clip(folder):
    "A CLIP with random weights"
    tok = CLIPTokenizer.from_pretrained(MODELS/'shapes'/'tokenizer')
    part = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(part, vocab_size=len(tok), max_position_embeddings=24, eos_token_id=tok.eos_token_id)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=dict(part, image_size=16, patch_size=8), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    side = dict(height=16, width=16)
    CLIPImageProcessorPil(size=dict(shortest_edge=16), crop_size=side).save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)

def other_program(folder, n):
    "Images with the web UI's words: at a guidance scale of 8 all show their prompts, at 5 a half, at 2 none"
    folder.mkdir()
    texts = [p.text for p in prompt_set('dev')]
    one, other = [next(p for p in texts if word in p and 'square' not in p) for word in ('heart', 'star')]
    for k in range(n):
        cfg, seed = METHODS[k % 3], k//3
        shown = one if cfg == 8 or cfg == 5 and seed % 2 else other
        info = PngInfo()
        info.add_text('parameters', f'{one}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: {cfg:g}, '
                      f'Seed: {seed}, Size: 32x32, Model hash: 0123abcd, Model: other, Version: v1.10.1')
        Image.fromarray(ideal(shown, np.random.default_rng(k))).save(folder/f'{k:05d}-{seed}.png', pnginfo=info)

@pytest.fixture(scope='module')
def clip(tmp_path_factory): return tiny_clip(tmp_path_factory.mktemp('clip'))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('other')/'images'
    other_program(folder, 300)
    return folder

@pytest.fixture(scope='module')
def warm(tmp_path_factory):
    "Starts processes in which the package is loaded"
    first = ('from cf_guidance.evaluation import score_folder; from transformers import AutoModel, AutoTokenizer, '
             'AutoImageProcessor')
    with Forks(tmp_path_factory.mktemp('warm'), first) as server: yield server

@pytest.fixture
def mine(tmp_path):
    "A file with a function, and what it noted"
    log = tmp_path/'asked.log'
    (tmp_path/'my.py').write_text(MINE.format(log=str(log)))
    return f"{tmp_path/'my.py'}:reward", lambda: log.read_text().split() if log.exists() else []

@pytest.fixture
def folder(made, tmp_path): return Path(shutil.copytree(made, tmp_path/'images'))

def mark(path): return hashlib.sha256(open_pixels(path)[0].numpy().tobytes()).hexdigest()

def test_three_scores_of_300_images(folder, clip, mine):
    "By a network, by the verifier and by a function in a file; each agrees with what is computed by itself"
    text, asked = mine
    found = score_folder(folder, f'clip:{clip},verifier,{text}', progress=False)
    net, own = [next(k for k in found[0].scores if k.startswith(start)) for start in ('clip:', 'my.py:reward@')]
    assert [*found[0].scores] == [net, 'verifier', own] and len(found) == len(asked()) == len({*asked()}) == 300
    rows = list(csv.DictReader((folder/'scores.csv').open()))
    assert [r['file_name'] for r in rows] == sorted(p.name for p in found) and {net, 'verifier', own} <= {*rows[0]}
    assert {r['file_name']: float(r[net]) for r in rows} == {p.name: p.scores[net] for p in found}
    assert all({*p.axes} == {'negative_prompt', 'sampler', 'model_name', 'seed', 'steps', 'cfg_scale', 'program'}
               for p in found)
    model, prepare = CLIPModel.from_pretrained(clip), CLIPImageProcessorPil.from_pretrained(clip)
    few = found[::50]
    inputs = dict(prepare(images=[Image.open(p.path) for p in few], return_tensors='pt'),
                  **CLIPTokenizer.from_pretrained(clip)([p.prompt for p in few], padding=True, return_tensors='pt'))
    with torch.no_grad(): theirs = (model(**inputs).logits_per_image/model.logit_scale.exp()).diagonal()
    # cosines of eight numbers, summed in float32, in batches of other sizes
    assert np.abs(theirs.numpy() - [p.scores[net] for p in few]).max() < 1e-5
    assert all(abs(p.scores[own] - float(open_pixels(p.path).mean())) < 1e-6 for p in few)
    means = score_means(found, 'cfg_scale')
    assert {k: v['images'] for k, v in means.items()} == {'2': 100, '5': 100, '8': 100}
    assert means['2']['verifier'] < .1 and .4 < means['5']['verifier'] < .6 and means['8']['verifier'] > .9

def test_killed_and_begun_again(folder, clip, mine, warm, every):
    "SIGKILL at random moments: no score that is kept is made again, and at most one batch is made in vain"
    text, asked = mine
    scores, rng, kills, cut = f'verifier,{text}' + f',clip:{clip}'*every, random.Random(3), 12 if every else 4, 0
    own = find_scores(text)[0].name
    name_of = {mark(p.path): p.name for p in pictures(folder)}
    assert len(name_of) == 300                               # each image is told by its pixels
    while True:
        before, heard = {k for k, r in read_scores(folder).items() if own in r.scores}, len(asked())
        child = warm.start(CHILD, folder, scores)
        if kills:
            # from its first images on; the last time it is left alone
            stop = heard + rng.randint(1, 80)
            while len(asked()) < stop and child.poll() is None: time.sleep(.001)
            time.sleep(rng.uniform(0, .01))
            child.kill()
            kills -= 1
            cut += child.wait() == -9
        else: assert child.wait() == 0, child.stderr
        new = [name_of[m] for m in asked()[heard:]]
        after = {k for k, r in read_scores(folder).items() if own in r.scores}
        assert before <= after and not before & {*new} and len(new) == len({*new})
        assert after - before <= {*new} and len({*new} - after) <= BATCH
        if child.returncode == 0 and not kills: break
    assert cut >= 3 and len(after) == 300
    # and a run that nobody killed has the same numbers
    found = {p.name: p.scores for p in score_folder(folder, scores, progress=False)}
    assert len(asked()) == len(asked()[:heard]) + len(new)
    plain = shutil.copytree(folder, folder.parent/'plain', ignore=shutil.ignore_patterns('scores.csv'))
    assert {p.name: p.scores for p in score_folder(plain, scores, progress=False)} == found

def test_two_at_once(folder, mine, warm):
    "Two processes with other scores, and two with the same one, end with one whole file"
    jobs = [warm.start(CHILD, folder, s) for s in ('verifier', mine[0], mine[0])]
    for j in jobs: assert j.wait() == 0, j.stderr
    rows = read_scores(folder)
    own = find_scores(mine[0])[0].name
    assert len(rows) == 300 and all({*r.scores} == {'verifier', own} for r in rows.values())
    lines = (folder/'scores.csv').read_text().splitlines()
    assert len(lines) == 301 and not list(folder.glob('.*'))

def test_copied_folder_and_changed_image(folder, mine, tmp_path):
    "A copy keeps its numbers, whatever the times of its files; another picture of the same name does not"
    text, asked = mine
    score_folder(folder, text, progress=False)
    copy = tmp_path/'copy'
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    score_folder(copy, text, progress=False)
    assert len(asked()) == 300
    one, other = sorted(copy.glob('*.png'))[:2]
    shutil.copyfile(other, one)
    found = score_folder(copy, text, progress=False)
    assert len(asked()) == 301 and found[0].scores == found[1].scores

LIGHT = 'def light(images, prompts): return images.mean((1, 2, 3))\n'
DARK = 'def dark(images, prompts): return images.mean((1, 2, 3))\ndark.higher = False\n'

def planted(folder, prompts=20, seeds=2, own=True):
    "Another program's images: at a guidance scale of 7 lighter by 26 of 255, at 3 by 1 at most, than at 5"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for p in range(prompts):
        for s in range(seeds):
            luck, seed = rng.normal(0, 8), 1000*p*own + s
            for cfg, more in ((3, rng.integers(-1, 2)), (5, 0), (7, 26 + rng.normal(0, 8))):
                info = PngInfo()
                info.add_text('parameters', f'prompt <b>{p}</b>\nSteps: 20, Sampler: Euler a, CFG scale: {cfg}, '
                              f'Seed: {seed}, Size: 64x64, Model hash: 0123abcd, Model: other, Version: v1.10.1')
                pixels = np.full((64, 64, 3), int(120 + luck + more), np.uint8)
                pixels[16:48, 16:48, cfg % 3] //= 2
                Image.fromarray(pixels).save(folder/f'{p:02d}-{s}-{cfg}.png', pnginfo=info)
    (folder/'mine.py').write_text(LIGHT + DARK)
    return folder

def evaluated(folder, capsys, **how):
    "What `cfg_eval` prints, and its page"
    inspect.unwrap(cli.cfg_eval)(str(folder), **how)
    return capsys.readouterr().out, (folder/'scores.html').read_text()

def row_of(text, name): return next(l for l in text.splitlines() if l.startswith(f'{name} '))

def test_three_methods_with_planted_effects(tmp_path, capsys):
    "Better and no different are found, turned round where less is better; the figures are those of the library"
    folder = planted(tmp_path/'images')
    names = f'{folder}/mine.py:light,{folder}/mine.py:dark'
    said, page = evaluated(folder, capsys, score=names, baseline='5')
    light, dark = said.split('\n\n')[:2]
    assert row_of(light, '7').endswith('better') and row_of(dark, '7').endswith('worse')
    for text in (light, dark):
        assert row_of(text, '3').endswith('no difference within .02') and row_of(text, '5').endswith('baseline')
        assert '95% intervals over 20 prompts' in text and 'pairs by prompt, seed' in text
    res = compare_scores(score_folder(folder, names, progress=False), 'mine.py:light', baseline='5')
    vals = {k: {(p.prompt, p.axes['seed']): float(open_pixels(p.path).mean()) for p in pictures(folder)
                if p.axes['cfg_scale'] == k} for k in (5, 7)}
    want = np.mean([vals[7][k] - vals[5][k] for k in vals[5]])
    # means of 12,288 floats
    assert abs(res.against['7'].verdict.effect.value - want) < 1e-6 and abs(want - 26*(1 - 1/8)/255) < .02
    assert f'{res.against["7"].p:.2g}' in row_of(light, '7').split()
    assert '&lt;b&gt;' in page and '<b>' not in page and 'no difference within .02' in page
    # a margin for each score: within half of the range nothing matters
    wide, _ = evaluated(folder, capsys, score=names, baseline='5', margin='.5, .02')
    ends = [row_of(t, '7').split('  ')[-1].strip() for t in wide.split('\n\n')[:2]]
    assert ends == ['no difference within .5', 'worse']

def test_shared_seeds_and_missing_pairs_are_said(tmp_path, capsys):
    folder = planted(tmp_path/'images', 12, 3, own=False)
    (folder/'03-1-7.png').unlink()
    said, _ = evaluated(folder, capsys, score=f'{folder}/mine.py:light', baseline='5')
    assert '12 prompts and 3 shared seeds' in said and 'all prompts share 3 seeds' in said
    assert '7 and 5 have 35 pairs in common; 0 of 7 and 1 of 5 are left out' in said and 'after Holm' in said

REFUSED = [
    (dict(margin='0'), '`margin` must be above 0'), (dict(margin='a'), '`margin` must be a number'),
    (dict(margin='.1,.2,.3'), '`margin` must be one number, or one for each of 1 scores'),
    (dict(pairs='seed'), '`pairs` must have prompt'), (dict(pairs='prompt,sead'), '`pairs` must be one of'),
    (dict(baseline='55'), "(nearest: 5)"), (dict(features='wurld'), '(nearest: world)'),
    (dict(axis='seed'), '`axis` must not be one of `pairs`'), (dict(score=','), '`score` must name a score'),
    (dict(score='', margin='.1'), '`margin` belongs to scores'),
    (dict(score='', features='world'), '`features` belongs')]

@pytest.mark.parametrize('how, words', REFUSED, ids=[str(how) for how, _ in REFUSED])
def test_refused_before_anything_is_scored(how, words, tmp_path):
    folder = planted(tmp_path/'images', 2, 1)
    with pytest.raises(ValueError, match=re.escape(words)):
        inspect.unwrap(cli.cfg_eval)(str(folder), **{'score': f'{folder}/mine.py:light', **how})
    assert not (folder/'scores.csv').exists() and not (folder/'scores.html').exists()

ROOMS = """import sys
from cf_guidance.cli import main_eval
try: main_eval()
except SystemExit as e: print(e.code)
print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('cf_guidance.')}))"""

@pytest.mark.parametrize('args', (('--margin', '0'), ('--pairs', 'seed'), ('--margin', '1-2 [0]')))
def test_refused_before_anything_is_imported(args, forks):
    said = forks.run(ROOMS, 'nowhere', '--score', 'verifier', *args).stdout.splitlines()
    assert len(said) == 2 and args[0][2:] in said[0] and said[1] == "['checks', 'cli', 'rooms']"

@pytest.mark.parametrize('width', (1100, 380))
def test_page_in_a_browser(browser, tmp_path, capsys, width):
    "Every picture is drawn, no network is asked, a click opens the image, and nothing is wider than the window"
    folder = planted(tmp_path/'one #1')
    evaluated(folder, capsys, score=f'{folder}/mine.py:light', baseline='5', features='world')
    page, faults = browser.new_page(viewport=dict(width=width, height=900)), []
    page.on('console', lambda m: faults.append(m.text))
    page.on('pageerror', lambda e: faults.append(str(e)))
    page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else faults.append(r.url))
    page.goto((folder/'scores.html').as_uri())
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    sizes = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(sizes) == 2 + 2*len(page.query_selector_all('figure')) and all(sizes)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    rows = [[c.inner_text() for c in r.query_selector_all('td')] for r in page.query_selector_all('tbody tr')]
    assert [(r[0], r[1]) for r in rows] == [('3', 'no difference within .02'), ('5', 'baseline'), ('7', 'better')]
    first = page.query_selector('figure')
    left, right = [a.get_attribute('href') for a in first.query_selector_all('a')]
    assert left[:-5] == right[:-5] and right.endswith('-5.png')
    first.query_selector('a').click()
    page.wait_for_url(f'**/{left}')
    assert page.evaluate('document.images[0].naturalWidth') == 64 and faults == []
    page.close()

MEMORY = '''
"Scores the folder, and says by how much the memory in use grew at most, in MiB"
import sys
from cf_guidance.evaluation import score_folder
def status(key):
    lines = open('/proc/self/status').read().splitlines()
    return next(int(l.split()[1])/1024 for l in lines if l.startswith(key))
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
found = score_folder(sys.argv[1], sys.argv[2], progress=False)
print(len(found), status('VmHWM') - before)
'''

def test_large_images_stream(tmp_path, warm, every):
    "Images of 1024 x 1024: less than 500 MB beyond the scorer, however many there are; all at once they would be more"
    if not Path('/proc/self/clear_refs').exists(): pytest.skip('the memory in use cannot be told here')
    folder, n = tmp_path/'large', 1000 if every else 60
    folder.mkdir()
    y, x = np.mgrid[:1024, :1024]
    Image.fromarray(np.stack([x//4, y//4, (x ^ y)//4], 2).astype(np.uint8)).save(folder/'0000.png')
    for k in range(1, n): (folder/f'{k:04d}.png').hardlink_to(folder/'0000.png')
    (folder/'prompts.txt').write_text('a prompt\n'*n)
    (tmp_path/'mean.py').write_text('def mean(images, prompts): return images.mean((1, 2, 3))\n')
    said = warm.run(MEMORY, folder, f"{tmp_path/'mean.py'}:mean", check=True).stdout.split()
    assert int(said[0]) == n and n*1024*1024*3*4 > 700e6 and float(said[1])*2**20 < 500e6

@pytest.mark.heavy
def test_image_folder_of_datasets(tmp_path):
    "What `datasets` reads as an image folder is read here, and still there once it is scored"
    datasets = pytest.importorskip('datasets', reason="datasets comes with the extra 'dev'")
    folder = tmp_path/'data'
    (folder/'train').mkdir(parents=True)
    for k in range(3): Image.new('RGB', (8, 8), (k, 0, 0)).save(folder/'train'/f'{k}.png')
    lines = [f'{{"file_name": "{k}.png", "text": "of {k}"}}\n' for k in range(3)]
    (folder/'train'/'metadata.jsonl').write_text(''.join(lines))
    (tmp_path/'red.py').write_text('def red(images, prompts): return images[:, 0].amax((1, 2))*255\n')
    found = score_folder(folder, f"{tmp_path/'red.py'}:red", progress=False)
    told = [(p.name, p.prompt, *p.scores.values()) for p in found]
    assert told == [(f'train/{k}.png', f'of {k}', k) for k in range(3)]
    res = datasets.load_dataset('imagefolder', data_dir=str(folder), cache_dir=str(tmp_path/'cache'))
    assert res['train']['text'][:] == ['of 0', 'of 1', 'of 2']
