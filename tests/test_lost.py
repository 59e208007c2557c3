"Nothing is lost: a sweep that is killed, has no room, or shares its folder"
import json, random, signal, subprocess, time
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from forks import Forks

WARM = 'from cf_guidance.sampling import built_in; from cf_guidance.sweeps import Sweep; built_in().fingerprint'
CHILD = '''
"Makes the sweep, and notes each image and each wave in a log"
import os, sys
from cf_guidance.sweeps import cells, Plan, Sweep
save, images, folder = cells.save_image, Plan.images, sys.argv[1]
log = os.open(folder + '.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(word): os.write(log, (word + chr(10)).encode())
def saved(image, recipe, folder):
    path = save(image, recipe, folder)
    note('wrote ' + path.stem)
    return path
def walked(self, progress):
    for wave in images(self, progress):
        note(f'wave {len(wave)}')
        yield wave
cells.save_image, Plan.images = saved, walked
sweep = Sweep(prompt=['a red cone', 'a blue torus'], seed=list(range(6)), schedule=[1, 5.], sampler='ddim', steps=3)
sweep.run(folder, progress=False, batch_size=8)
note('done')
'''
N, WAVE = 24, 4

@pytest.fixture(scope='module')
def warm(tmp_path_factory):
    "Starts processes in which the model is loaded"
    with Forks(tmp_path_factory.mktemp('warm'), WARM) as server: yield server

def whole(path):
    "The pixels of an image, which must be readable to the end"
    with Image.open(path) as im: im.load(); return np.asarray(im.convert('RGB'), int)

def ids(folder): return {p.stem for p in (folder/'images').glob('*.png')}

def swept(forks, folder, lines=None, delay=0):
    "Make the sweep, and kill it `delay` seconds after it has written so many lines to its log; what it wrote there"
    log = Path(f'{folder}.log'); log.unlink(missing_ok=True)
    child, said = forks.start(CHILD, folder), lambda: log.read_text().split('\n')[:-1] if log.exists() else []
    if lines is not None:
        while len(said()) < lines and 'done' not in said() and child.poll() is None: time.sleep(.001)
        time.sleep(delay)
        child.kill()
    child.wait()
    return said()

def test_killed_at_any_moment(tmp_path, warm, every):
    "SIGKILL at random moments, which are counted in what was done: whatever is there is whole, nothing is made twice, and at most one wave is made again"
    rng, kills, k, cut = random.Random(7), 300 if every else 4, 0, 0
    started = time.perf_counter(); swept(warm, tmp_path/'plain'); took = time.perf_counter() - started
    assert len(ids(tmp_path/'plain')) == N
    while k < kills:
        folder, log = tmp_path/f'sweep{k}', []
        while 'done' not in log:
            before = ids(folder) if folder.exists() else set()
            left = N - len(before)
            cut_at = (rng.randint(0, left + -(-left//WAVE)), rng.uniform(0, 2*took/N)) if k < kills else ()
            log = swept(warm, folder, *cut_at)
            k += 1
            wrote, after = [w.split()[1]
                            for w in log
                            if w.startswith('wrote')], ids(folder) if folder.exists() else set()
            cut += 'done' not in log and bool(log)
            # none lost, none made twice
            assert before <= after and not before & set(wrote) and len(wrote) == len(set(wrote))
            # killed between the file and the note of it
            assert len(after - before - set(wrote)) <= 1
            rendered = sum(int(w.split()[1]) for w in log if w.startswith('wave'))
            # at most one wave was made in vain
            assert rendered - len(wrote) <= WAVE
            for name in after: whole(folder/'images'/f'{name}.png')
        check(folder, tmp_path/'plain')
    # it was really killed in the middle
    assert cut >= kills//4

def check(folder, plain):
    "A finished folder is complete, and its images are those of a sweep that was left alone"
    rows = [json.loads(l) for l in (folder/'metadata.jsonl').read_text().splitlines()]
    assert {r['id'] for r in rows} == ids(folder) == ids(plain) and len(rows) == N
    assert (folder/'index.html').is_file() and not (folder/'failures.jsonl').exists()
    # what was killed left nothing behind
    assert not list(folder.rglob('*.tmp'))
    for name in ids(folder):
        assert np.abs(whole(folder/'images'/f'{name}.png') - whole(plain/'images'/f'{name}.png')).max() <= 2

CALL = 'from cf_guidance.cli import main; main()'
SMALL = ['--schedule', '1-6', '--seed', '1-2', '--steps', '3', '--sampler', 'ddim', '--batch-size', '4']

@pytest.fixture
def run(warm): return lambda folder, *args: warm.run(CALL, *SMALL, '--out', folder, *args)

def test_two_processes_in_one_folder(tmp_path, warm):
    "Two who start at once end with one whole folder"
    procs = [warm.start(CALL, *SMALL, '--out', tmp_path/'both') for _ in 'ab']
    for p in procs: assert p.wait() == 0, p.stderr
    rows = [json.loads(l) for l in (tmp_path/'both/metadata.jsonl').read_text().splitlines()]
    assert len(rows) == len({r['id'] for r in rows}) == 12 and {r['id'] for r in rows} == ids(tmp_path/'both')
    for name in ids(tmp_path/'both'): whole(tmp_path/'both/images'/f'{name}.png')
    assert not list((tmp_path/'both').rglob('*.tmp'))

def test_interrupted_by_hand(tmp_path, warm, run):
    "Ctrl-C ends with one line, the lists in order, and the same command goes on"
    proc = warm.start(CALL, *SMALL, '--steps', '20', '--out', tmp_path)
    while not ids(tmp_path) and proc.poll() is None: time.sleep(.01)
    proc.kill(signal.SIGINT); proc.wait()
    said = proc.stderr
    n = len(ids(tmp_path))
    assert proc.returncode == 1 and f'stopped; {n} of 12 images are in' in said and 'Traceback' not in said
    assert 0 < n < 12 and len((tmp_path/'metadata.jsonl').read_text().splitlines()) == n
    assert run(tmp_path, '--steps', '20').returncode == 0 and len(
        ids(tmp_path)) == 12 and (tmp_path/'grid.png').is_file()

def test_interrupted_between_the_file_and_its_cell(tmp_path, monkeypatch):
    "An image that was written when Ctrl-C came counts"
    from cf_guidance.sweeps import cells
    save = cells.save_image
    def stopped(*args):
        save(*args)
        raise KeyboardInterrupt
    one = sweep(seed=[1, 2])
    with monkeypatch.context() as m:
        m.setattr(cells, 'save_image', stopped)
        with pytest.raises(KeyboardInterrupt): one.run(tmp_path, progress=False)
    assert len(ids(tmp_path)) == sum(c.made for c in one.cells) == 1
    assert one.run(tmp_path, progress=False) and len(ids(tmp_path)) == 2

@pytest.fixture
def mounted(tmp_path):
    "Mounts a small file system in memory, where that is allowed"
    there = []
    def mount(size, name='disk'):
        (tmp_path/name).mkdir()
        res = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none',
                              str(tmp_path/name)], capture_output=True)
        if res.returncode: pytest.skip('a file system cannot be mounted here')
        there.append(tmp_path/name)
        return tmp_path/name
    yield mount
    for p in there: subprocess.run(['umount', str(p)], check=True)

def test_disk_full(mounted, run):
    "No room: what is written is whole, the error is told, and with room the sweep goes on"
    disk = mounted('40k')
    res = run(disk)
    assert res.returncode != 0 and 'No space left on device' in res.stderr
    there = ids(disk)
    assert len(there) < 12 and not list(disk.rglob('*.tmp'))
    for name in there: whole(disk/'images'/f'{name}.png')
    subprocess.run(['mount', '-o', 'remount,size=4m', str(disk)], check=True)
    assert run(disk).returncode == 0 and len(ids(disk)) == 12 and len(
        (disk/'metadata.jsonl').read_text().splitlines()) == 12

def test_no_room_for_the_third_image(tmp_path, monkeypatch):
    "The same without a file system of its own: the third image cannot be written"
    from cf_guidance.records import image_files
    write, count = image_files.write_whole, []
    def full(path, put):
        count.append(path)
        if len(count) != 3: return write(path, put)
        def half(f): f.write(b'half'); raise OSError(28, 'No space left on device')
        return write(path, half)
    monkeypatch.setattr(image_files, 'write_whole', full)
    one = sweep(seed=[1, 2, 3, 4])
    with pytest.raises(OSError, match='No space left'): one.run(tmp_path, progress=False, batch_size=4)
    there = ids(tmp_path)
    assert len(there) == 2 and not list(tmp_path.rglob('*.tmp')) and sum(c.made for c in one.cells) == 2
    # what is there is listed
    assert len((tmp_path/'metadata.jsonl').read_text().splitlines()) == 2
    again = one.run(tmp_path, progress=False)
    assert len(ids(tmp_path)) == 4 and all(c.made for c in again.cells) and again.made == 2*2*2

def test_read_only(mounted, run):
    disk = mounted('4m')
    assert run(disk, '--seed', '1').returncode == 0
    before = {p: p.read_bytes() for p in disk.rglob('*') if p.is_file()}
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    res = run(disk)
    assert res.returncode == 1 and 'Traceback' not in res.stderr
    assert '`folder` must be one that can be made and written to' in res.stderr
    assert {p: p.read_bytes() for p in disk.rglob('*') if p.is_file()} == before

def sweep(**axes):
    from cf_guidance.sweeps import Sweep
    return Sweep(**{**dict(steps=2, sampler='ddim'), **axes})

def test_damaged_images_are_made_again(tmp_path):
    sweep(seed=[1, 2, 3]).run(tmp_path, progress=False)
    a, b, c = sorted((tmp_path/'images').glob('*.png'))
    good, stamp = {p: whole(p) for p in (a, b, c)}, c.stat().st_mtime_ns
    a.write_bytes(a.read_bytes()[:-40]); b.write_bytes(b'')
    again = sweep(seed=[1, 2, 3]).run(tmp_path, progress=False)
    assert again.made == 2*2*2 and c.stat().st_mtime_ns == stamp
    for p in (a, b, c): assert np.abs(whole(p) - good[p]).max() <= 2
    assert len((tmp_path/'metadata.jsonl').read_text().splitlines()) == 3

@pytest.mark.filterwarnings('ignore')
def test_prompts_of_all_kinds(tmp_path):
    "A prompt never becomes part of a path, and comes back as it was"
    odd = [
        '../../../etc/passwd', 'C:\\a\\b:*?"<>|', 'nul\0 and \x1b\\[31m \r\n\t', '🦊 e\u0301 \u202egnp.exe', 'x'*10_000,
        '</script><img src=x onerror=alert(1)>', ' ', 'CON', '%s %n {0} $HOME'
    ]
    made = sweep(prompt=odd, steps=1).run(tmp_path/'here', progress=False)
    assert all(c.file.parent == tmp_path/'here/images'
               for c in made.cells) and sorted(p.name for p in tmp_path.iterdir()) == ['here']
    rows = [json.loads(l) for l in (tmp_path/'here/metadata.jsonl').read_text(encoding='utf-8').splitlines()]
    assert {r['prompt'] for r in rows} == set(odd) and len(rows) == len(odd)
    assert sweep(prompt=odd, steps=1).run(tmp_path/'here', progress=False).made == 0

RULE = '''
from cf_guidance.transforms import GuidanceTfm
def rule(u, t, g): return u + {}*(t - u)
class Mine(GuidanceTfm): rule = staticmethod(rule)
'''
EDITED = '''
import sys
here, out = sys.argv[1:]
sys.path.insert(0, here); sys.dont_write_bytecode = True
from mine import Mine
from cf_guidance.sweeps import Sweep
s = Sweep(transform=Mine, schedule=3, steps=2, sampler='ddim').run(out, progress=False)
print(s.cells[0].id, s.made)
'''
def test_an_edited_rule_is_made_anew(tmp_path, forks):
    "The image of a rule that was edited is not the old one"
    def image(body):
        (tmp_path/'mine.py').write_text(RULE.format(body))
        name, made = forks.run(EDITED, tmp_path, tmp_path/'out', check=True).stdout.split()
        return name, int(made)
    first, edited, back = image('g'), image('(g + 5)'), image('g')
    assert first[1] == edited[1] == 4 and back == (first[0], 0) and edited[0] != first[0]
    assert np.abs(whole(tmp_path/'out/images'/f'{first[0]}.png') -
                  whole(tmp_path/'out/images'/f'{edited[0]}.png')).max() > 8

@pytest.mark.heavy
def test_loads_as_an_image_folder(tmp_path, run, monkeypatch):
    "Hugging Face datasets reads the folder, with every column"
    monkeypatch.setenv('HF_HUB_OFFLINE', '1'); monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')
    datasets = pytest.importorskip('datasets')
    assert run(tmp_path/'s').returncode == 0                      # a grid.png and an index.html are there, too
    rows = datasets.load_dataset('imagefolder', data_dir=str(tmp_path/'s'), split='train',
                                 cache_dir=str(tmp_path/'cache'))
    assert len(rows) == 12 and {'image', 'id', 'prompt', 'seed', 'recipe', 'title'} <= set(rows.column_names)
    for row in rows:
        assert row['seed'] in (1, 2) and json.loads(row['recipe'])['seed'] == row['seed']
        assert np.array_equal(np.asarray(row['image'].convert('RGB'), int),
                              whole(tmp_path/'s/images'/f"{row['id']}.png"))
