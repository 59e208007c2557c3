"A sweep of a pipeline for video: each clip beside the record of its frames, whole, played by the page, and judged by its frames"
import itertools, json, random
from pathlib import Path
import numpy as np, pytest
from PIL import Image
import families_video
from cf_guidance.evaluation import evaluate
from cf_guidance.records import FPS, clip_file, read_frames, read_recipe, rerun, strip_of, thumbnail_file, write_viewer
from cf_guidance.records import clips, image_files
from cf_guidance.schedules import constant
from cf_guidance.sweeps import Sweep
from forks import Forks
from hosts import until as wait_for
from test_engines import LEFT, TABLE, quiet, swept, told
from test_viewer import button, made_of, show, until           # `show` is a fixture

HERE = str(Path(__file__).parent)
HOSTED = [name for name in families_video.FAMILIES if TABLE[name] != 'refused' and name not in LEFT]
SOUND = {'StableAudioPipeline', 'AceStepPipeline', 'ShapEPipeline'}

@pytest.fixture(autouse=True)
def animated(monkeypatch, request):
    "Clips are animated PNGs, whatever is installed here"
    if 'mp4' not in request.keywords: monkeypatch.setattr(clips, '_has_mp4', lambda: False)

def video(name='WanPipeline', **more):
    "A sweep of two schedules, and its pipeline"
    pipe, call, texts = told(name)
    how = dict(prompt=texts[:1], schedule=[3., constant(3.).cutoff(.5)], seed=1, steps=4, call=call)
    return pipe, Sweep(pipe, **{**how, **more})

def pixels(images): return [np.asarray(im.convert('RGB')) for im in images]

def same(a, b):
    a, b = pixels(a), pixels(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))

def played(path):
    "Every frame of an animated PNG, and how long one is shown"
    with Image.open(path) as im:
        return [im.seek(k) or im.convert('RGB') for k in range(im.n_frames)], im.info['duration']

@pytest.mark.parametrize('name', HOSTED)
def test_a_clip_for_each_image(name, tmp_path, every):
    "The clip has the frames that the pipeline gives; an image made again has them too, and a resume makes nothing"
    if not every and name not in ('WanPipeline', 'AnimateDiffPipeline'): pytest.skip('with --all')
    pipe, sweep = video(name)
    made, alone = swept(sweep, tmp_path, exact=True), swept(video(name)[1], exact=True)
    assert all(c.made for c in made.cells)
    for c, lone in zip(made.cells, alone.cells):
        frames = lone.image.info.get('frames', [lone.image])
        assert same(read_frames(c.file), frames) and len(frames) == read_recipe(c.file).get('frames', 1)
        if name in SOUND or len(frames) == 1: continue
        if any(same([a], [b]) for a, b in zip(frames, frames[1:])): continue      # a PNG has equal frames once
        shown, ms = played(clip_file(c.id, tmp_path))
        assert same(shown, frames) and ms == round(1000/FPS) and read_recipe(c.file)['fps'] == FPS
        again = quiet(rerun, c.file, pipe, progress=False)
        assert same([again], [c.image]) and same(again.info['frames'], frames)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.*') if p.suffix != '.jsonl'}
    assert swept(video(name)[1], tmp_path, exact=True).made == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.*') if p.suffix != '.jsonl'}

def test_what_is_gone_comes_again(tmp_path):
    "A clip or a thumbnail that is gone is made from the frames in the image, and another rate is written to both"
    _, sweep = video()
    cells = swept(sweep, tmp_path).cells
    files = sorted(p for p in tmp_path.rglob('*') if p.parent.name in ('clips', 'thumbs'))
    first, ids = [p.read_bytes() for p in files], sorted(p.name for p in tmp_path.glob('images/*'))
    assert len(files) == 4
    for p in files: p.unlink()
    assert swept(video()[1], tmp_path).made == 0 and [p.read_bytes() for p in files] == first
    slow = swept(video()[1], tmp_path, fps=4)
    assert slow.made == 0 and sorted(p.name for p in tmp_path.glob('images/*')) == ids
    for c in cells: assert read_recipe(c.file)['fps'] == 4 and played(clip_file(c.id, tmp_path))[1] == 250
    assert swept(video()[1], tmp_path).made == 0 and read_recipe(cells[0].file)['fps'] == 4      # nobody asked
    for bad in (0, 2.5, 10**6, 'fast'):
        with pytest.raises(ValueError, match='`fps` must be'): video()[1].run(tmp_path, fps=bad)

KILLED = '''
import os, signal, sys
from cf_guidance.records import files
from test_clips import clips, swept, video
clips._has_mp4 = lambda: False
folder, at, late = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'late'
replace, n = os.replace, [0]
def replaced(a, b):
    n[0] += 1
    if n[0] == at and not late: os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
    if n[0] == at: os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = replaced
swept(video()[1], folder, exact=True)
'''

@pytest.mark.heavy
def test_killed(tmp_path, every):
    "SIGKILL before or after any file gets its name: no image is without its clip, all is whole, and the end is the same"
    plain, places = tmp_path/'plain', list(itertools.product(range(1, 7), ('early', 'late')))
    quiet(video()[1].run, plain, progress=False, exact=True)
    said = {p.relative_to(plain): p.read_bytes() for p in plain.rglob('*.*') if p.suffix in ('.png', '.jpg')}
    assert len(said) == 6                              # of each image itself, a clip, and a thumbnail
    with Forks(tmp_path, f'import sys; sys.path.insert(0, {HERE!r}); import test_clips') as forks:
        for at, when in places if every else [(2, 'early'), random.Random(5).choice(places)]:
            folder = tmp_path/f'{at} {when}'
            assert forks.run(KILLED, folder, at, when).returncode == -9
            for p in folder.glob('images/*.png'):
                assert same(played(clip_file(p.stem, folder))[0], read_frames(p))
            forks.run(KILLED, folder, 0, when, check=True)
            now = {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.*') if p.suffix in ('.png', '.jpg')}
            assert now == said and not list(folder.rglob('*.tmp'))

def test_frames_are_judged(tmp_path):
    "A score and an extractor see frames, in parts that memory holds, and a clip has their mean"
    from cf_guidance.evaluation import sweep_figures
    _, sweep = video(seed=[1, 2, 3])
    cells, seen = swept(sweep, tmp_path).cells, []
    def bright(images, prompts):
        seen.append(images.shape)
        assert len(images) == len(prompts)
        return [dict(all=float(im.mean()) > 128, red=float(im[..., 0].mean())/255) for im in images]
    flat = lambda images: images.reshape(len(images), -1)[:, :4].astype(float)
    whole = evaluate(tmp_path, score=bright, features=flat)
    frames, least = [read_frames(c.file) for c in cells], sweep_figures._MOST
    n, (w, h) = len(frames[0]), frames[0][0].size
    assert n > 1 and {s[1:] for s in seen} == {(h, w, 3)} and sum(s[0] for s in seen) == n*len(cells)
    assert 'figures of a clip are means over its frames' in whole.notes
    for value in whole.values:
        own = [pixels(f) for c, f in zip(cells, frames) if read_recipe(c.file)['title'] == value.name]
        red = np.mean([[im[..., 0].mean()/255 for im in f] for f in own])
        assert len(own) == 3 and value.figures['accuracy: red'].value == pytest.approx(red, rel=1e-12)
    sweep_figures._MOST = 3*w*h*4                       # four frames at a time, across the clips
    try: assert evaluate(tmp_path, score=bright, features=flat) == whole
    finally: sweep_figures._MOST = least
    assert max(s[0] for s in seen[1:]) == 4

def shown_clips(folder):
    "A folder of two clips of a moving square"
    for seed, colour in ((1, 'gold'), (2, 'tomato')):
        frames = [Image.new('RGB', (48, 32), 'steelblue') for _ in range(20)]
        for k, f in enumerate(frames): f.paste(colour, (k, 8, k + 16, 24))
        strip = strip_of(frames)
        r = made_of(constant(3), seed, width=strip.width, height=strip.height)
        path = image_files.save_image(strip, r, folder)
    return path, frames

def test_page_plays(show, tmp_path):
    "The grid shows the first frame, the panel plays the clip; where a clip is gone it has the image of all frames"
    path, frames = shown_clips(tmp_path)
    page = show(write_viewer(tmp_path))
    grid = page.locator('#grid button img')
    assert grid.evaluate_all('es => es.map(e => e.getAttribute("src")).sort()') == sorted(
        f'thumbs/{p.stem}.jpg' for p in tmp_path.glob('images/*'))
    until(page, 'document.querySelector("#grid img").naturalWidth == 48')
    for n, keys in ((0, []), (1, ['Shift'])): button(page, 0, n).click(modifiers=keys)
    films = page.locator('.pair img')
    assert films.evaluate_all('es => es.map(e => e.getAttribute("src").slice(0, 6))') == ['clips/']*2
    until(page, '[...document.querySelectorAll(".pair img")].every(e => e.naturalWidth == 48)')
    one = films.first.screenshot()
    wait_for(lambda: films.first.screenshot() != one, 'the clip to go on', .1)
    until(page, '[...document.querySelectorAll(".blend img")].every(e => e.naturalWidth == 240)')   # all frames
    clip_file(path.stem, tmp_path).unlink()
    (tmp_path/'thumbs'/f'{path.stem}.jpg').unlink()
    page = show(write_viewer(tmp_path))
    button(page, 0, 1).click()
    assert page.locator('.pair img').get_attribute('src') == f'images/{path.stem}.png'
    assert thumbnail_file(path).is_file()

@pytest.mark.mp4
def test_mp4(show, tmp_path):
    "With imageio the clip is an MP4 of as many frames, which the page plays"
    imageio = pytest.importorskip('imageio')
    pytest.importorskip('imageio_ffmpeg')
    path, frames = shown_clips(tmp_path)
    film = clip_file(path.stem, tmp_path)
    assert film.name == f'{path.stem}.mp4' and sorted(p.suffix for p in tmp_path.glob('clips/*')) == ['.mp4']*2
    with imageio.get_reader(film) as r:
        assert r.get_meta_data()['fps'] == FPS
        there = [np.asarray(f, int) for f in r]
    assert len(there) == len(frames) and all(f.shape == (32, 48, 3) for f in there)
    far = [np.abs(a - np.asarray(b, int)).mean() for a, b in zip(there, frames)]
    assert max(far) < 16                               # lossy; another frame is further away
    page = show(write_viewer(tmp_path))
    button(page, 0, 0).click()
    until(page, 'document.querySelector("#panel video").videoWidth == 48')
    until(page, 'document.querySelector("#panel video").currentTime > .2')
    video = page.locator('#panel video')
    assert video.evaluate('e => [e.loop, e.muted, e.controls, e.paused]') == [True, True, True, False]

@pytest.mark.heavy
def test_loads_as_an_image_folder(tmp_path, monkeypatch):
    "Hugging Face datasets finds the images alone, neither clips nor thumbnails nor inputs"
    monkeypatch.setenv('HF_HUB_OFFLINE', '1'); monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')
    datasets = pytest.importorskip('datasets')
    _, sweep = video()
    cells = swept(sweep, tmp_path/'s').cells
    assert {p.name for p in (tmp_path/'s').iterdir()} >= {'clips', 'thumbs', 'inputs', 'images'}
    rows = datasets.load_dataset('imagefolder', data_dir=str(tmp_path/'s'), split='train',
                                 cache_dir=str(tmp_path/'cache'))
    assert sorted(r['id'] for r in rows) == sorted(c.id for c in cells)
    for r in rows: assert r['image'].size == Image.open(tmp_path/f"s/images/{r['id']}.png").size
    assert {json.loads(r['recipe'])['frames'] for r in rows} == {9}
