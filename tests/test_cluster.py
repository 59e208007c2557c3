"Sweeps on the workers of a Ray: every image is there once, whatever happens to a worker"
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil, pytest
from cf_guidance.sweeps import Plan
from cf_guidance.transforms import GuidanceTfm
from cf_guidance.sampling import Run

pytest.importorskip('ray')

MINE = '''import os, signal
from cf_guidance.transforms import GuidanceTfm

class Kills(GuidanceTfm):
    "Guidance that ends its own process in the middle of a run: once if it has a marker, else always"
    def __init__(self, schedules, marker=None): super().__init__(schedules); self.marker = marker
    def post_proc(self, u, t, idx):
        if idx == 3 and (self.marker is None or first(self.marker)): os.kill(os.getpid(), signal.SIGKILL)

def first(marker):
    try: os.write(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY), str(os.getpid()).encode())
    except FileExistsError: return False
    return True

class Mine(Exception):
    def __init__(self, a, b): super().__init__(f'{a} and {b}')

def breaks(u, t, idx): raise Mine(1, 2)
'''

@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A user's own file"
    (tmp_path/'mine_of_test.py').write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_of_test
    yield mine_of_test
    del sys.modules['mine_of_test']

@pytest.fixture
def nothing_left():
    "No process that was started in a test is there after it"
    before = set(psutil.Process().children(recursive=True))
    yield
    end = time.time() + 300
    while (left := {p
                    for p in psutil.Process().children(recursive=True)
                    if p.status() != psutil.STATUS_ZOMBIE} - before) and time.time() < end:
        time.sleep(.1)
    assert not left, [p.cmdline()[:3] for p in left]

def alone(plan): return {i: x for w in plan.images(progress=False) for i, x in w.items()}

def listening(process):
    "Where a process listens; nowhere if it is gone by now, as the one that is killed"
    try: return [c for c in process.net_connections('inet') if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess: return []

def same(got, want):
    "Every number once, with the image or the error that one device gives"
    assert sorted(i for w in got for i in w) == sorted(want)
    for i, x in ((i, x) for w in got for i, x in w.items()):
        if isinstance(want[i], Exception): assert isinstance(x, Exception) and str(want[i]) in str(x)
        else: assert np.abs(np.asarray(x, int) - np.asarray(want[i], int)).max() <= 2, i

@pytest.mark.heavy
def test_worker_killed(tmp_path, mine, nothing_left):
    "A worker that is killed in the middle of a wave; a run that raises; a Ray of our own that leaves nothing behind"
    from cf_guidance.sweeps import ray_images
    marker = tmp_path/'killed'
    runs = [Run('a red cone', GuidanceTfm({'g': g}), s) for s in range(4) for g in (2, 7.5)]
    runs[2:2] = [Run('a red cone', mine.Kills({'g': 5}, str(marker)), 1), Run('a red cone', mine.breaks, 1)]
    make = lambda: Plan(runs, steps=6, batch_size=8)
    plan = make()
    assert len(plan.waves) > 2
    images = ray_images(plan, workers=2, progress=False)
    got = [next(images)]
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    heard = {c.laddr.ip.removeprefix('::ffff:') for p in family for c in listening(p)}
    assert len(family) > 4 and heard == {'127.0.0.1'}                # nobody outside can reach it
    got += images
    assert marker.read_text() != str(os.getpid()) and not psutil.pid_exists(int(marker.read_text()))
    one = make()
    same(got, alone(one))                                            # here nothing is killed, since the marker is there
    assert (plan.made, plan.done) == (one.made, one.done)
    errors = {i: x for w in got for i, x in w.items() if isinstance(x, Exception)}
    assert {i: repr(x) for i, x in errors.items()} == {3: "RuntimeError('Mine: 1 and 2')"}
    import ray
    assert not ray.is_initialized()

def test_pipeline(tmp_path, nothing_left, every):
    "A sweep of a pipeline by its name: each worker loads it, and the images and files are those of one process"
    if not every: pytest.skip('--all')
    from cf_guidance.adapters import load_pipeline
    from cf_guidance.sweeps import Sweep
    from families_unet import FAMILIES
    model, said = tmp_path/'model', []
    pipe, args = FAMILIES['StableDiffusionXLPipeline']()
    pipe.save_pretrained(model)
    def sweep(pipe):
        return Sweep(pipe, prompt=args['prompt'][:2], schedule=[3., 4., 1.], negative_prompt='a blue square',
                     seed=[1, 2], steps=4, call=dict(height=16, width=16))
    with pytest.raises(ValueError, match='unless `load_pipeline` loaded the pipeline'):
        sweep(pipe).run(tmp_path/'none', progress=False, workers=2)
    named = load_pipeline(str(model), device='cpu')
    there = sweep(named).run(tmp_path/'there', progress=False, workers=2, exact=True, warn=said.append)
    here = sweep(named).run(tmp_path/'here', progress=False, exact=True, warn=said.append)
    assert [c.id for c in there.cells] == [c.id for c in here.cells] and all(c.made for c in there.cells)
    for a, b in zip(there.cells, here.cells):
        assert np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).max() <= 2
    assert sweep(named).run(tmp_path/'there', progress=False, workers=2, exact=True).made == 0

def test_joined(tmp_path, mine, nothing_left, every):
    "A Ray that runs already is used and stays; images that nobody wants any more end the workers; a run that always kills its worker is given up alone"
    if not every: pytest.skip('--all')
    import ray
    from cf_guidance.sweeps import ray_images
    ray.init('local', num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        runs = [Run('a blue torus', GuidanceTfm({'g': g}), s)
                for s in range(3)
                for g in (2, 5)][:5] + [Run('a blue torus', mine.Kills({'g': 3}), 2)]
        first = next(it := ray_images(Plan(runs[:5], steps=4, batch_size=4), workers=2, progress=False))
        it.close()
        end = time.time() + 300
        while ray.available_resources().get('CPU') != 2 and time.time() < end: time.sleep(.1)
        assert len(first) == 2 and ray.is_initialized() and ray.available_resources()['CPU'] == 2
        got = list(ray_images(Plan(runs, steps=6, batch_size=4), workers=2, progress=False))
        assert 'the worker died 3 times with this run' in str(got[-1][5])
        same(got, {**alone(Plan(runs[:5], steps=6)), 5: RuntimeError('the worker died 3 times')})
    finally: ray.shutdown()

DRIVER = """#!{python}
import sys
from cf_guidance.sampling import Run
from cf_guidance.sweeps import Plan, ray_images
from cf_guidance.transforms import GuidanceTfm
said = dict(zip(sys.argv[1::2], sys.argv[2::2]))
plan = Plan([Run('a red cone', GuidanceTfm({{'g': g}}), s) for s in range(2) for g in (2, 5)], steps=4)
got = [i for w in ray_images(plan, int(said['--workers']), said['--ray'], progress=False) for i, x in w.items() if x.size == (64, 64)]
open('got', 'w').write(str(sorted(got)))
"""

def test_slurm_script(tmp_path, every):
    "The script of the page, on a SLURM of one node that is made of shell: a cluster by `ray start`, joined by its address"
    if not every: pytest.skip('--all')
    page = json.loads((Path(__file__).parent.parent/'nbs/tutorials/many_machines.ipynb').read_text())
    [script] = [m for c in page['cells'] for m in re.findall(r'```bash\n(.*?)```', ''.join(c['source']), re.S)]
    fakes = {'srun': '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done\nexec "$@"\n',
             'scontrol': '#!/bin/bash\necho localhost\n', 'cfg_sweep': DRIVER.format(python=sys.executable)}
    for name, text in fakes.items(): (tmp_path/name).write_text(text); (tmp_path/name).chmod(0o755)
    # Ray gives its node 30 seconds, which a busy machine may not have: then the job is submitted again
    for k in range(5):
        slurm = dict(SLURM_JOB_ID=str(os.getpid() + k), SLURM_NNODES='1', SLURM_CPUS_PER_TASK='2',
                     SLURM_JOB_NODELIST='localhost')
        path = f'{tmp_path}:{Path(sys.executable).parent}:{os.environ["PATH"]}'
        env = {**os.environ, **slurm, 'HOME': str(tmp_path), 'PATH': path, 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0'}
        ended, said = submitted(script, env, tmp_path)
        if LATE not in said: break
    assert ended == 0 and (tmp_path/'got').read_text() == '[0, 1, 2, 3]', said[-8000:]

LATE = 'The current node timed out during startup'

def submitted(script, env, folder):
    "Run a job to its end, or until its node is late; its exit status, and what it said"
    log = folder/'log'
    with open(log, 'wb') as out:
        proc = subprocess.Popen(['bash', '-c', script], env=env, cwd=folder, start_new_session=True,
                                stdout=out, stderr=out)
        try:
            end = time.time() + 1200
            while proc.poll() is None and LATE not in log.read_text(errors='replace') and time.time() < end:
                time.sleep(.5)
            return proc.poll(), log.read_text(errors='replace')
        finally: end_session(proc.pid)

def end_session(sid):
    "End what a job left, as SLURM does; workers of Ray have a process group of their own, and one session with the rest"
    def there():
        found = []
        for p in psutil.process_iter():
            try: found += [p]*(os.getsid(p.pid) == sid and p.status() != psutil.STATUS_ZOMBIE)
            except (psutil.NoSuchProcess, ProcessLookupError, PermissionError): pass
        return found
    for stop in (signal.SIGTERM, signal.SIGKILL):
        for p in there():
            try: p.send_signal(stop)
            except psutil.NoSuchProcess: pass
        psutil.wait_procs(there(), timeout=120)
    assert not there()
