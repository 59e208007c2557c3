"Get a ComfyUI, and ask one that runs in another process"
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
from safetensors.torch import load_file, save_file

here = Path(__file__).parent

class Comfy:
    "A ComfyUI in another process"
    def __init__(self, comfyui, site, pack, work):
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(site), str(comfyui)])
        self.log = open(self.work/'log.txt', 'w')
        self.p = subprocess.Popen([sys.executable, str(here/'inside.py'), str(comfyui), str(pack), str(work)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                  env={**os.environ, 'PYTHONPATH': path}, cwd=work)
        ready = self._heard()
        self.nodes, self.samplers = ready['nodes'], ready['samplers']
        self.n = 0

    def _heard(self):
        line = self.p.stdout.readline()
        if line: return json.loads(line)
        raise RuntimeError((self.work/'log.txt').read_text()[-4000:])

    def file(self, **tensors):
        "A file of tensors, to be read by `TestTensor`"
        self.n += 1
        name = self.work/f't{self.n}.safetensors'
        save_file({k: v.contiguous() for k, v in tensors.items()}, name)
        return str(name)

    def queue(self, *prompts):
        "What each item of a queue says, and the latents that were kept"
        self.n += 1
        out = self.work/f'o{self.n}.safetensors'
        print(json.dumps(dict(queue=prompts, out=str(out))), file=self.p.stdin, flush=True)
        res = self._heard()
        if isinstance(res, dict): raise RuntimeError(res['broken'])
        return res, load_file(out) if out.exists() else {}

    def close(self):
        self.p.stdin.close()
        self.p.wait(20)
        self.log.close()

class Graph(dict):
    "A workflow in the form that a queue takes"
    def add(self, kind, /, **inputs):
        key = str(len(self) + 1)
        self[key] = dict(class_type=kind, inputs=inputs)
        return key
def out(key, n=0): return [key, n]

class Server:
    "ComfyUI's own server, on loopback"
    def __init__(self, comfyui, site, frontend, pack, work):
        self.work, self.log = Path(work), open(Path(work)/'log.txt', 'w')
        custom = self.work/'custom_nodes'
        custom.mkdir(parents=True)
        shutil.copytree(pack, custom/pack.name)
        (custom/'own_nodes.py').symlink_to(here/'own_nodes.py')
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        args = f'--cpu --disable-api-nodes --use-pytorch-cross-attention --listen 127.0.0.1 --port {self.port}'.split()
        args += ['--base-directory', work, '--database-url', 'sqlite:///:memory:', '--front-end-root', frontend]
        self.p = subprocess.Popen(list(map(str, [sys.executable, here/'serve.py', comfyui, *args])), cwd=work,
                                  stdout=self.log, stderr=self.log, env={**os.environ, 'PYTHONPATH': str(site)})

    @property
    def url(self): return f'http://127.0.0.1:{self.port}'

    def get(self, path, data=None):
        "An answer of the server, as bytes"
        body = None if data is None else json.dumps(data).encode()
        asked = urllib.request.Request(self.url + path, body, {'Content-Type': 'application/json'})
        with urllib.request.urlopen(asked, timeout=60) as res: return res.read()

    def asked(self, path, data=None): return json.loads(self.get(path, data))

    def wait(self, ready, seconds=180):
        "What `ready` gives, once it gives something"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.p.poll() is not None: break
            try:
                if res := ready(): return res
            except OSError: pass
            time.sleep(.2)
        raise RuntimeError((self.work/'log.txt').read_text()[-6000:])

    def close(self):
        self.p.terminate()
        self.p.wait(30)
        self.log.close()
