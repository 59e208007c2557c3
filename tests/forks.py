"Processes that start in a moment: each is a fork of one that has imported the libraries, and nothing of the package"
import json, os, signal, subprocess, sys, traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

def end(job):
    "In a fork: run a program as `python -c` does; its exit status"
    signal.signal(signal.SIGINT, signal.default_int_handler)       # a shell's background job would not hear it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, path in enumerate(job['said'], 1): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    sys.stdout, sys.stderr = (open(fd, 'w', closefd=False) for fd in (1, 2))
    os.environ.update(job['env'])
    sys.argv = ['-c', *job['args']]
    try: exec(job['src'], {'__name__': '__main__'})
    except SystemExit as e:
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc(); return 1
    return 0

def leave(status):
    "End a fork, and nothing of the process that it came from"
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(status)

def forget(packages):
    "Let nothing of some packages be imported, nor help to import"
    ours = lambda name: name.split('.')[0] in packages
    for name in filter(ours, list(sys.modules)): del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if not ours(getattr(f, '__module__', type(f).__module__))]

def fresh(src, *args, without=()):
    "Run a program in a fork of this process, where nothing of the package is imported, nor of those `without`"
    with TemporaryDirectory() as folder:
        said = [Path(folder)/name for name in ('out', 'err')]
        if not (pid := os.fork()):
            status = 1
            try:
                if torch := sys.modules.get('torch'): torch.set_num_threads(1)      # its threads are not in the fork
                forget({'cf_guidance', *without})
                status = end(dict(src=src, args=args, said=said, env={}))
            finally: leave(status)
        _, status = os.waitpid(pid, 0)
        return SimpleNamespace(returncode=os.waitstatus_to_exitcode(status), stdout=said[0].read_text(),
                               stderr=said[1].read_text())

SERVER = '''
"Each line on stdin is a program to run in a fork, or a fork to ask how it ended"
import json, os, sys
sys.path.insert(0, sys.argv[2])
from forks import end, leave
del sys.path[0]
import matplotlib.pyplot, scipy.stats, torch
from diffusers import AutoencoderKL, DDIMScheduler, LMSDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
torch.set_num_threads(1)

def started(job):
    if pid := os.fork(): return pid
    leave(end(job))

def ended(job):
    pid, status = os.waitpid(job['pid'], 0 if job['wait'] else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None

exec(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    print(json.dumps(started(job) if 'src' in job else ended(job)), flush=True)
'''

class Fork:
    "A process of a server, with what it said and how it ended"
    def __init__(self, ask, said, **job):
        self.ask, self.said, self.returncode = ask, said, None
        self.pid = ask(said=[str(p) for p in said], **job)
    def poll(self, wait=False):
        if self.returncode is None: self.returncode = self.ask(pid=self.pid, wait=wait)
        return self.returncode
    def wait(self): return self.poll(True)
    def kill(self, by=signal.SIGKILL):
        if self.poll() is None: os.kill(self.pid, by)
    @property
    def stdout(self): return self.said[0].read_text()
    @property
    def stderr(self): return self.said[1].read_text()

class Forks:
    "The server, which runs `first` before it forks"
    def __init__(self, folder, first=''):
        self.folder, self.n = Path(folder), 0
        args = [sys.executable, '-c', SERVER, first, str(Path(__file__).parent)]
        self.proc = subprocess.Popen(args, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     env={**os.environ, 'OMP_NUM_THREADS': '1'})
    def ask(self, **job):
        self.proc.stdin.write(json.dumps(job) + '\n'); self.proc.stdin.flush()
        return json.loads(self.proc.stdout.readline())
    def start(self, src, *args, **env):
        "Run a program in a process of its own"
        self.n += 1
        said = self.folder/f'{self.n}.out', self.folder/f'{self.n}.err'
        return Fork(self.ask, said, src=src, args=[str(a) for a in args], env=env)
    def run(self, src, *args, check=False, **env):
        "The same, to its end"
        fork = self.start(src, *args, **env)
        fork.wait()
        if check: assert fork.returncode == 0, fork.stderr
        return fork
    def script(self, path, *args):
        "Run a file as `python FILE` does; it must end well"
        home = str(Path(path).parent)
        src = f'import runpy, sys; sys.path.insert(0, {home!r}); runpy.run_path({str(path)!r}, run_name="__main__")'
        return self.run(src, *args, check=True)
    def __enter__(self): return self
    def __exit__(self, *_): self.proc.stdin.close(); self.proc.wait(); self.proc.stdout.close()
