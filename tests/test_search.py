"A search that is killed and resumed, by several workers, and of a pipeline"
import json, os, signal, subprocess, sys
from pathlib import Path
import pytest
pytest.importorskip('optuna')
from cf_guidance.evaluation import Arm, Search, search
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.worlds import scene_prompts
from hosts import until
from test_engines import told

# a search whose score notes each image that it rates, and waits for ever before the batch number `stop`; in its
# first trial it waits for as many workers as there are to be. It has a name of its own, since what it reads differs
SRC = '''
import sys, time
from pathlib import Path
from cf_guidance.evaluation import Score, curve_space, search
from cf_guidance.evaluation.own_scores import find_scores
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.worlds import scene_prompts
folder, (stop, trials, workers) = Path(sys.argv[1]), map(int, sys.argv[2:])
verifier, asked = find_scores('verifier:share')[0], []
def at_work():
    journal = folder/'search.journal'
    return len({line for line in journal.read_text().splitlines() if '"worker"' in line}) if journal.exists() else 0
def rated(images, prompts):
    while 0 < at_work() < workers: time.sleep(.05)                 # before any trial, during the constants, none is
    asked.append(prompts)
    if len(asked) == stop:
        (folder/'waits').touch()
        time.sleep(1000)
    with open(folder.parent/'rated.txt', 'a') as f:
        f.writelines(f'{p} {x.double().sum():.6f}\\n' for p, x in zip(prompts, images))
    return verifier(images, prompts)
texts = [p.text for p in scene_prompts('dev')[::6][:12]]
weak = get_sd_pieces('scenes-weak', device='cpu')
found = search(curve_space('linear', start=(1, 15), end=(1, 15)), Score('rated', rated), texts, 'ddim', pipe=weak,
               steps=3, folder=folder, trials=trials, first=3, constants=(2, 6), progress=False)
print(found)
'''

def begun(folder, stop=0, trials=6, workers=1):
    "Begin a worker; with several, none ends its first trial before each has one"
    folder.mkdir(parents=True, exist_ok=True)
    args = map(str, (folder, stop, trials, workers))
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SRC, *args],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})

def ended(proc):
    "What a worker printed at last"
    out, err = proc.communicate(timeout=600)
    assert proc.returncode == 0, err[-2000:]
    return out.strip().splitlines()[-1]

def trials_of(folder):
    "The numbers and the values of the trials in the journal of a search"
    rows = [json.loads(line) for line in (folder/'search.journal').read_text().splitlines()]
    of, said = {}, {}
    for r in rows:
        if r['op_code'] == 8 and 'user_attr' in r: said.setdefault(r['trial_id'], {}).update(r['user_attr'])
        if r['op_code'] == 6: of[r['trial_id']] = r['state']
    return [(said[k]['params'], said[k].get('values')) for k in sorted(said) if of.get(k) in (1, 2)]

def made_once(folder):
    "The images of a folder, each of which was rated once"
    rated = (folder.parent/'rated.txt').read_text().splitlines()
    images = sorted(p.name for p in (folder/'images').glob('*.png'))
    assert len(rated) == len(images) and len({*rated}) == len(rated)
    assert not [*folder.rglob('*.tmp')]
    return images

@pytest.mark.heavy
def test_killed_and_resumed(tmp_path):
    "After SIGKILL in a trial the search ends as one that was left alone, and nothing is made or scored twice"
    whole, killed = tmp_path/'a/out', tmp_path/'b/out'
    alone = ended(begun(whole))
    proc = begun(killed, stop=6)
    until(lambda: (killed/'waits').exists() or proc.poll() is not None, 'the worker to wait')
    assert proc.poll() is None, proc.stderr.read()
    first = {p.name: p.stat().st_mtime_ns for p in (killed/'images').glob('*.png')}
    proc.send_signal(signal.SIGKILL)
    proc.communicate()
    assert len(first) < len(made_once(whole)) and len(trials_of(killed)) < 6
    assert ended(begun(killed)) == alone
    assert trials_of(killed) == trials_of(whole) and made_once(killed) == made_once(whole)
    assert {p: (killed/'images'/p).stat().st_mtime_ns for p in first} == first

@pytest.mark.heavy
def test_two_workers(tmp_path):
    "Both try points, each its own; both end with the same words, and there are as many trials as were asked for"
    folder = tmp_path/'c/out'
    procs = [begun(folder, trials=8, workers=2) for _ in range(2)]
    one, other = map(ended, procs)
    assert one == other and len(trials_of(folder)) == 8
    assert len({json.dumps(p) for p, _ in trials_of(folder)}) == 8
    made_once(folder)
    rows = [json.loads(line) for line in (folder/'search.journal').read_text().splitlines()]
    assert len({r['user_attr']['worker'] for r in rows if 'worker' in r.get('user_attr', {})}) == 2
    assert not [*(folder/'workers').iterdir()]

def light(images, prompts): return images.mean((1, 2, 3))

def test_pipeline(tmp_path):
    "A tiny SDXL of random weights: a curve with the number of a transform, two aims, and nothing is made again"
    pipe, call, texts = told('StableDiffusionXLPipeline')
    texts = [*texts, 'a blue ring', 'a green cross'][:4]
    how = dict(pipe=pipe, call=call, steps=2, trials=3, constants=(1.5, 4), folder=tmp_path, also='calls',
               progress=False)
    found = search('linear start=1-9 end=1-9', light, texts, **how)
    assert [r.state for r in found.trials] == ['done']*3 and all(r.values[1] == 4 for r in found.trials)
    assert [*found.reports] == ['here'] and found.reports['here'].baseline == found.constant.name
    there = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'images').glob('*.png')}
    again = search('linear start=1-9 end=1-9', light, texts, **how)
    assert repr(again) == repr(found) and again.trials == found.trials
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path/'images').glob('*.png')} == there

def test_displacement_of_a_pipeline(tmp_path):
    "It is measured in a pipeline, too: none for `t` alone, more for a greater scale, and a limit holds"
    pipe, call, texts = told('StableDiffusionXLPipeline')
    how = dict(pipe=pipe, call=call, steps=2, constants=(1.5, 4), folder=tmp_path, progress=False, prune='none')
    todo = Search('linear', light, [*texts, 'a blue ring', 'a green cross'][:4], **how)
    none, some, more = (todo.bench.displacement(Arm(g), todo.chosen) for g in (1., 2., 4.))
    assert abs(none) < 1e-4*some < 1e-4*more
    begin = [dict(start=1., end=1.), dict(start=15., end=15.)]
    found = search('linear start=1-15 end=1-15', light, todo.chosen + todo.held, trials=2, begin=begin,
                   limits=dict(displacement=more), **how)
    assert [r.fits for r in found.trials] == [True, False] and found.best.number == 0

def test_a_function_of_the_same_name_is_another_score(tmp_path):
    "Its old numbers do not count, and the storage is that of another search; the same function goes on"
    def score(k):
        def light(images, prompts): return k*images.mean((1, 2, 3))
        return light
    texts, weak = [p.text for p in scene_prompts('dev')[:4]], get_sd_pieces('scenes-weak', device='cpu')
    how = dict(pipe=weak, steps=2, trials=2, constants=(1.5, 4), folder=tmp_path, progress=False)
    found = search('linear start=1-9', score(1), texts, **how)
    assert repr(search('linear start=1-9', score(1), texts, **how)) == repr(found)
    with pytest.raises(ValueError, match='belongs to another, which differs in score'):
        search('linear start=1-9', score(2), texts, **how)
    other = search('linear start=1-9', score(2), texts, name='two', **how)
    for (k, v), w in zip(found.constants.items(), other.constants.values()): assert abs(w - 2*v) < 1e-6*abs(v)

def test_command_on_a_pipeline(tmp_path, monkeypatch, capsys):
    "`cfg_search` with a scorer by file on a folder that holds a tiny SDXL"
    from cf_guidance.cli import main_search
    pipe, call, texts = told('StableDiffusionXLPipeline')
    pipe.save_pretrained(tmp_path/'sdxl')
    monkeypatch.chdir(tmp_path)
    Path('my.py').write_text('def light(images, prompts): return images.mean((1, 2, 3))')
    Path('texts.txt').write_text('\n'.join([*texts[:2], 'a blue ring', 'a green cross']))
    line = ['cfg_search', '--model', 'sdxl', '--prompts', 'texts.txt', '--score', 'my.py:light', '--trials', '2',
            '--steps', '2', '--constants', '1.5,4', '--device', 'cpu',
            '--call', ' '.join(f'{k}={v}' for k, v in call.items())]
    monkeypatch.setattr('sys.argv', line)
    main_search()
    out = capsys.readouterr().out
    assert 'here, on 2 held-out prompts' in out and 'my.py:light@' in out
    assert Path('cfg_search/search.html').is_file() and Path('cfg_search/trials.csv').read_text().count('\n') == 3

def test_without_optuna(tmp_path, monkeypatch):
    "The extra is named in one line, and nothing is made"
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(ValueError, match=r"^Optuna must be installed: pip install 'cf_guidance\[search\]'$"):
        search('linear', light, list('abcd'), folder=tmp_path/'x', progress=False)
    assert not (tmp_path/'x').exists()
