"Races on the built-in model and in a pipeline: killed, gone on with, and held against their images"
import json, random, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np
import pytest
from test_engines import told
from cf_guidance import cli
from cf_guidance.evaluation import better_by, check_images, race, race_cells, read_race
from cf_guidance.evaluation.race_log import find_log
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.worlds import scene_prompts

ROOT = Path(__file__).parents[1]
ARMS = ['cosine', 'apg', 'autoguidance']
CHOOSE, REPORT = [[p.text for p in scene_prompts(part)[::9]] for part in ('dev', 'test')]

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

def told_of(folder):
    "All that a race decided, and each of its rows"
    names = [p.name for p in Path(folder).iterdir() if p.suffix in ('.csv', '.json')]
    return {n: (Path(folder)/n).read_text() for n in names}

RUN = '''
import json, os, sys, warnings
from cf_guidance.evaluation import race, race_cells
from cf_guidance.sweeps import cells
warnings.simplefilter('ignore')
arms, prompts, folder = *map(json.loads, sys.argv[1:3]), sys.argv[3]
log, save = os.open(folder + '.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND), cells.save_image
def saved(image, recipe, folder):
    path = save(image, recipe, folder)
    os.write(log, f'{folder.name}/{path.name}\\n'.encode())
    return path
cells.save_image = saved
made = race(arms, prompts, race_cells('scenes-weak', 'ddim', 3), 'verifier:share', .02, folder, constants=(2, 5),
            noises=2, load=dict(device='cpu'), batch_size=16, progress=False)
os.write(log, b'done\\n')
'''

def test_killed(tmp_path, forks, every):
    "SIGKILL on the way: the same command goes on, makes no image twice, and says what a race says that was left alone"
    args, rng = [json.dumps(ARMS), json.dumps([CHOOSE, REPORT])], random.Random(1)
    lines = lambda folder: Path(f'{folder}.log').read_text().split() if Path(f'{folder}.log').exists() else []
    forks.run(RUN, *args, tmp_path/'plain', check=True)
    whole = len(lines(tmp_path/'plain'))
    for k in range(4 if every else 1):
        folder, kills = tmp_path/f'killed{k}', 0
        while 'done' not in lines(folder):
            n, child = len(lines(folder)), forks.start(RUN, *args, folder)
            # a batch may be lost with each kill, so a few kills are far apart
            want = n + rng.randint(whole//4, whole//2)
            while len(lines(folder)) < want and child.poll() is None: time.sleep(.002)
            if child.poll() is None: kills += 1
            child.kill()
            child.wait()
        assert kills > 1
        made = lines(folder)[:-1]
        assert len({*made}) == len(made)
        ours, theirs = read_race(folder), read_race(tmp_path/'plain')
        assert {*ours.words} == {*ARMS} and ours.words.keys() == theirs.words.keys()
        # a batch that was broken off is made in other company, which may move a pixel's last bit and a score with it
        assert ours.info == theirs.info and ours.images == theirs.images
        assert check_images(folder) == ours.images

def rows_of(folder, *names):
    "The rows of some files, in any order, but for the names of images"
    rows = [line for name in names for line in (Path(folder)/name).read_text().splitlines()]
    return sorted(line.rpartition(',')[0] for line in rows)

@pytest.mark.heavy
def test_verdicts_do_not_depend_on_the_order(tmp_path):
    "The same arms and prompts in another order are the same race, in a new folder and in the same one"
    pieces = get_sd_pieces('scenes-weak', device='cpu')
    how = dict(score='verifier:share', budget=.02, constants=(2, 5), noises=2, progress=False, batch_size=2)
    cells, arms = race_cells(pieces, 'ddim', 2), ['cosine', 'apg', 'rescale', 'linear']
    one = race(arms, (CHOOSE, REPORT), cells, folder=tmp_path/'one', **how)
    files = 'constants.csv', 'round-1.csv', 'report.csv', 'diversity.csv'
    before, decided = told_of(tmp_path/'one'), [r['standings'] for r in one.rounds]
    for folder in ('two', 'one'):
        two = race(arms[::-1], (CHOOSE[::-1], REPORT[::-1]), cells, folder=tmp_path/folder, **how)
        assert [s.arm for r in two.rounds for s in r['standings']] == [s.arm for part in decided for s in part]
        assert one.words == two.words and one.images == two.images == check_images(tmp_path/folder)
    # packed without the names of images, the log says the same
    done = subprocess.run([sys.executable, ROOT/'tools/race.py', tmp_path/'one', tmp_path/'packed'], check=True,
                          capture_output=True, text=True)
    packed = read_race(tmp_path/'packed')
    assert packed.words == one.words and packed.images == one.images and 'best constant: ' in done.stdout
    assert not {*tmp_path.glob('packed/*.csv')} - {tmp_path/'packed/verdicts.csv'}
    # the new folder has the rows of the first, and the first was not touched
    assert rows_of(tmp_path/'two', *files) == rows_of(tmp_path/'one', *files) and told_of(tmp_path/'one') == before

def test_an_arm_that_is_the_constant(tmp_path):
    "It has the images of the best constant, each made once, and no effect at all"
    pieces = get_sd_pieces('scenes-weak', device='cpu')
    arms = {'two': 2., 'three': 3.}
    found = race(arms, (CHOOSE, REPORT), race_cells(pieces, 'ddim', 3), 'verifier:share', .02, tmp_path,
                 constants=(2, 3), noises=2, progress=False, features='')
    (cell, best), = found.constants.items()
    same, other = sorted(arms, key=lambda a: arms[a] != best)
    assert found.calibrated[cell, same].factors[1] == 1. != found.calibrated[cell, other].factors[1]
    rows = find_log(tmp_path).rows('report')
    images = {a: {(r['prompt'], r['noise']): r['image'] for r in rows if r['arm'] == a and r['setting'] == 1}
              for a in (same, 'best constant')}
    assert images[same] == images['best constant'] and len({*images[same].values()}) == len(images[same]) > 1
    assert {*found.report.pooled.against[same].diffs.values()} == {0.}
    assert better_by(found.report, same).value == 0. and 'better' not in found.words[same]

SCORER = '''
def brightness(images, prompts): return images.mean((1, 2, 3))
def flat(images, prompts): return images.mean((1, 2, 3))*0
'''

def typed(monkeypatch, capsys, *words):
    "Type a race: what it prints, and what it says when it gives up"
    monkeypatch.setattr('sys.argv', ['cfg_race', *map(str, words)])
    try: cli.main_race()
    except SystemExit as e: said = e.code
    else: said = None
    return capsys.readouterr().out, said

def test_typed_with_a_score_of_a_file(tmp_path, monkeypatch, capsys):
    "A race by one's own function, on one's own prompts"
    (tmp_path/'my.py').write_text(SCORER)
    for name, texts in (('some', CHOOSE), ('others', REPORT)): (tmp_path/f'{name}.txt').write_text('\n'.join(texts))
    words = ['--arms', 'cosine,apg with linear', '--model', 'scenes-weak', '--device', 'cpu', '--steps', 2,
             '--budget', .02, '--constants', '2,5', '--noises', 2, '--choose', tmp_path/'some.txt',
             '--report', tmp_path/'others.txt', '--out', tmp_path/'out']
    flat = typed(monkeypatch, capsys, *words, '--score', f'{tmp_path}/my.py:flat', '--out', tmp_path/'flat')
    assert 'must tell images apart' in flat[1]
    out, said = typed(monkeypatch, capsys, *words, '--score', f'{tmp_path}/my.py:brightness')
    assert said is None and 'apg with linear' in out and str(tmp_path/'out') in out
    assert read_race(tmp_path/'out').info['score'].startswith('my.py:brightness@')
    # a change of the function is another score, and so another race
    (tmp_path/'my.py').write_text(SCORER + '# another')
    again = typed(monkeypatch, capsys, *words, '--score', f'{tmp_path}/my.py:brightness')
    assert 'belongs to another, which differs in score' in again[1]

def bright(images, prompts): return images.mean((1, 2, 3))

def pipeline_race(folder, arms=('cosine', 'apg')):
    "A race in a tiny pipeline of SDXL's"
    pipe, call, _ = told('StableDiffusionXLPipeline')
    pipe.set_progress_bar_config(disable=True)
    sets = [[f'a {c} {s}' for s in ('circle', 'square', 'ring')] for c in ('red', 'blue')]
    return quiet(race, [*arms], sets, race_cells(pipe, 'euler', 3), bright, .02, folder, constants=(2, 5), noises=2,
                 call=call, progress=False)

@pytest.mark.heavy
def test_hosted(tmp_path):
    "A race in a pipeline, by a function; what it counts is what its images are"
    found = pipeline_race(tmp_path)
    assert found.info['features'] == 'thumbnail' and {*found.words} == {'cosine', 'apg'}
    assert check_images(tmp_path) == found.images
    cell, = found.constants
    base, arm = [found.calibrated[cell, a] for a in ('best constant', 'cosine')]
    assert arm.kind == 'matched' and np.allclose(arm.pushes, base.pushes, rtol=.032)
    before = told_of(tmp_path)
    assert pipeline_race(tmp_path).words == found.words and told_of(tmp_path) == before

@pytest.mark.heavy
def test_hosted_and_typed(tmp_path, monkeypatch, capsys):
    "The same by the command, of a pipeline in a folder, with a scorer by file"
    pipe, _, _ = told('StableDiffusionXLPipeline')
    quiet(pipe.save_pretrained, tmp_path/'model')
    (tmp_path/'my.py').write_text(SCORER)
    for name in ('red', 'blue'):
        (tmp_path/f'{name}.txt').write_text('\n'.join(f'a {name} {s}' for s in ('ring', 'star')))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        out, said = typed(monkeypatch, capsys, '--arms', 'cosine,rescale', '--model', tmp_path/'model', '--steps', 3,
                          '--device', 'cpu', '--size', 16, '--budget', .01, '--constants', '2,5', '--noises', 2,
                          '--choose', tmp_path/'red.txt', '--report', tmp_path/'blue.txt', '--score',
                          f'{tmp_path}/my.py:brightness', '--out', tmp_path/'out')
    assert said is None, said
    assert 'best constant: ' in out and {*read_race(tmp_path/'out').words} == {'cosine', 'rescale'}
