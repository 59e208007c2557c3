"""What a sweep costs besides the network, for 100, 1,000 and 10,000 images in four shapes.

`python benchmarks/scale.py` rewrites scale.json; with `--before ../old`, a checkout of commit 2b28259, it measures
that beside it.
"""
import argparse, inspect, json, os, platform, subprocess, sys, tempfile, time, warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'tests'), str(root/'benchmarks')]
import numpy as np, torch
from PIL import Image
from cf_guidance.cli.grid_pages import grid_files
from cf_guidance.records import image_files
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sweeps import Plan, Sweep
from hosts import FLAGS, chromium
from sharing import watched

SHAPES = 'grid', 'pairs', 'one axis', 'own seeds'
PARTS = {'planning': 'Plan', 'metadata': 'write_metadata', 'page': 'renew_viewer'}
VIEW = dict(width=1280, height=860)

def scale(m): return [round(1 + k/1000, 3) for k in range(m)]

def swept(shape, n):
    "A sweep of `n` images: a full grid, one change at a time, schedules alone, or prompts with seeds of their own"
    how = dict(steps=5, sampler='ddim')
    if shape == 'grid': return Sweep(seed=list(range(n//10)), schedule=scale(10), **how)
    if shape == 'pairs': return Sweep(how='pairs', seed=list(range(n//2)), schedule=scale(n//2 + 1), **how)
    if shape == 'one axis': return Sweep(schedule=scale(n), **how)
    return Sweep(how='list', prompt=[f'a red star {k}' for k in range(n)], seed=list(range(n)), **how)

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))

def made(plan, progress=True):
    "One picture of noise for every image, in place of the network's"
    for wave in plan.waves:
        plan.made += len(wave)
        yield {i: NOISE.copy() for i in wave}

class Clock(dict):
    "Seconds of this process inside the functions that it wraps, by name"
    def __call__(self, name, f):
        def inside(*args, **kwargs):
            begin = time.process_time()
            try: return f(*args, **kwargs)
            finally: self[name] = self.get(name, 0) + time.process_time() - begin
        return inside

def memory(key): return int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1])/1024

@contextmanager
def weighed(res):
    "Put the most memory that the block took into `res`, in MiB"
    open('/proc/self/clear_refs', 'w').write('5')          # the peak begins anew
    before = memory('VmRSS')
    yield
    res['memory'] = round(memory('VmHWM') - before, 1)

def filled(shape, n, folder, pieces):
    "Run a sweep: seconds of this process, whole and by part, and how many image files were opened"
    clock, opened, own = Clock(), [], Image.open
    def counted(*args, **kwargs): opened.append(1); return own(*args, **kwargs)
    with watched(clock, PARTS), patch.object(Plan, 'images', made), patch.object(Image, 'open', counted):
        begin = time.process_time()
        sweep = swept(shape, n).run(folder, pieces, progress=False)
        took = time.process_time() - begin
    assert all(c.made for c in sweep.cells) and len(sweep.cells) == n
    return sweep, dict(seconds=round(took, 3), opened=len(opened), **{k: round(v, 3) for k, v in clock.items()})

EARLIER = """
import json, sys, tempfile, time, warnings
import numpy as np, torch
from PIL import Image
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.plans import Plan
from cf_guidance.sweeps import Sweep
torch.set_num_threads(1)
warnings.simplefilter('ignore')
%s
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
%s
%s
Plan.images, shape, n, pieces = made, sys.argv[1], int(sys.argv[2]), get_sd_pieces('shapes', device='cpu')
with tempfile.TemporaryDirectory() as d:
    for name in ('run', 'resume'):
        begin = time.process_time()
        sweep = swept(shape, n).run(d, pieces, progress=False)
        print(json.dumps([name, round(time.process_time() - begin, 3)]))
    assert all(c.made for c in sweep.cells) and len(sweep.cells) == n
"""

def before(checkout, shape, n):
    "Seconds of a process that has the package of an earlier `checkout`, for the first run and for one that finds all made"
    code = EARLIER % (inspect.getsource(scale), inspect.getsource(swept), inspect.getsource(made))
    out = subprocess.run([sys.executable, '-c', code, shape, str(n)], capture_output=True, text=True, cwd=checkout,
                         env={**os.environ, 'PYTHONPATH': str(checkout)}, check=True).stdout
    return dict(json.loads(line) for line in out.splitlines())

def opened(page, browser):
    "Seconds until a page can be used, the least of three, and again for one that the address asks for; elements in the grid"
    def once(hash):
        tab = browser.new_page(viewport=VIEW)
        tab.set_default_timeout(600_000)
        begin = time.perf_counter()
        tab.goto(page.as_uri() + hash)
        drawn = tab.evaluate("document.querySelectorAll('#grid *').length")
        took = time.perf_counter() - begin
        begin = time.perf_counter()
        tab.evaluate("g = document.querySelector('#grid'); g.scrollTo(g.scrollWidth, g.scrollHeight)")
        tab.evaluate('new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))')
        moved = time.perf_counter() - begin
        tab.close()
        return round(took, 3), round(moved, 3), drawn
    first, asked = [[once(h) for _ in range(3)] for h in ('', '#columns=seed&rows=schedule&size=32')]
    return dict(seconds=min(first)[0], scrolled=min(m for _, m, _ in first), drawn=first[0][2], asked=min(asked)[0],
                asked_drawn=asked[0][2])

def measure(shape, n, pieces, browser, grids):
    "One row of the table"
    row = dict(shape=shape, images=n)
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        with weighed(row): sweep, row['run'] = filled(shape, n, folder, pieces)
        image_files._header.cache_clear()                    # as a new process would begin
        _, row['resume'] = filled(shape, n, folder, pieces)
        if grids:
            clock = Clock()
            for name in ('first', 'again'): files, _ = clock(name, grid_files)(sweep, folder)
            row['grid'] = dict(pages=len(files), mb=round(sum(f.stat().st_size for f in files)/2**20, 2),
                               **{k: round(v, 3)
                                  for k, v in clock.items()})
        row['files'] = dict(metadata_mb=round((folder/'metadata.jsonl').stat().st_size/2**20, 2), page_mb=round(
            (folder/'index.html').stat().st_size/2**20, 2))
        row['open'] = browser and opened(folder/'index.html', browser)
    print(json.dumps(row), flush=True)
    return row

@contextmanager
def a_browser():
    if chromium() is None: yield None; return
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS, timeout=600_000)
        yield browser
        browser.close()

def machine():
    model = next(
        (l.split(':')[1].strip()
         for l in open('/proc/cpuinfo')
         if l.startswith('model name')), platform.machine()) if os.path.exists('/proc/cpuinfo') else platform.machine()
    return f'{os.cpu_count()} cores of {model}, no GPU, Python {platform.python_version()}'

NOTE = (
    'Seconds are processor time of one process, but for `open`, which is the time on the clock in Chromium, the least '
    'of three. '
    'The network is replaced by one picture of noise, so the rows have all that a sweep costs besides it. '
    'Grids are drawn for 100 images; ten pages are the most, whatever there is. `before` is commit 2b28259, measured '
    'on the same machine in the same hour.')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--quick', action='store_true', help='few images: does it run?')
    p.add_argument('--sizes', type=int, nargs='+', default=[100, 1000, 10_000],
                   help='numbers of images; rows of others stay as they are')
    p.add_argument('--before', type=Path, help='a checkout of commit 2b28259, measured beside this one')
    p.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'), help='where the table goes')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    sizes, pieces = [20] if a.quick else a.sizes, get_sd_pieces('shapes', device='cpu')
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=root, capture_output=True,
                            text=True).stdout.strip()
    kept = json.loads(a.out.read_text())['rows'] if a.out.is_file() else []
    with a_browser() as browser:
        for n in sizes:
            for shape in SHAPES:
                row = measure(shape, n, pieces, browser, n <= 100)
                if a.before: row['before'] = before(a.before.resolve(), shape, n)
                kept = [r for r in kept if (r['shape'], r['images']) != (shape, n)] + [row]
                res = dict(machine=machine(), commit=commit, command='python benchmarks/scale.py', note=NOTE,
                           rows=sorted(kept, key=lambda r: r['images']))
                a.out.write_text(json.dumps(res, indent=1) + '\n')

if __name__ == '__main__': main()
