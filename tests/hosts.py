"What several tests share: Jupyter servers, Voila, a Chromium to open them with, waiting and comparing"
import json, os, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path

FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'
]

def chromium(): return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

PATIENCE = 600      # seconds that a busy machine may take for anything that is waited for

def until(there, what, pause=.1):
    "Wait for what is to come, not for a time; the time ends the test where it never comes"
    end = time.monotonic() + PATIENCE
    while not (got := there()):
        if time.monotonic() > end: raise TimeoutError(f'waited {PATIENCE} seconds for {what}')
        time.sleep(pause)
    return got

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def at_home(home):
    "What keeps a Jupyter server to a home of its own, as environment"
    return {'JUPYTER_CONFIG_DIR': str(home), 'IPYTHONDIR': str(home), 'OMP_NUM_THREADS': '1'}

@contextmanager
def listening(proc, port, said):
    "The address of a server that is starting, when it listens; it is gone when the block ends"
    try:
        def listens():
            if proc.poll() is not None: raise RuntimeError(said())
            try: socket.create_connection(('127.0.0.1', port)).close(); return True
            except OSError: return False
        until(listens, f'port {port} to listen')
        yield f'http://127.0.0.1:{port}'
    finally:
        if proc.poll() is None: os.kill(proc.pid, signal.SIGTERM)
        end = time.monotonic() + 120
        while proc.poll() is None and time.monotonic() < end: time.sleep(.1)
        if proc.poll() is None: proc.kill()

@contextmanager
def served(args, port, log, home):
    "A server in a process group of its own, which listens when the block begins and is gone when it ends"
    with open(log, 'w') as f:
        proc = subprocess.Popen([sys.executable, *args], stdout=f, stderr=f, env={**os.environ, **at_home(home)},
                                start_new_session=True)
    with listening(proc, port, Path(log).read_text) as url: yield url

def notebook(*cells):
    "A notebook of code cells, as JSON"
    cell = lambda i, src: dict(cell_type='code', id=f'c{i}', metadata={}, source=src, execution_count=None, outputs=[])
    spec = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'))
    return json.dumps(dict(cells=[cell(i, c) for i, c in enumerate(cells)], metadata=spec, nbformat=4,
                           nbformat_minor=5))

def slider(page, name):
    "The handle of the slider that is called `name`"
    return page.locator('.widget-slider', has=page.get_by_text(name, exact=True)).first.locator('.noUi-handle')

def drag(page, handle, dx, moves=10, held=lambda: None):
    "Drag a handle with the mouse, and call `held` before letting go"
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
    page.mouse.move(x, y); page.mouse.down()
    for k in range(1, moves + 1): page.mouse.move(x + dx*k/moves, y)
    got = held()
    page.mouse.up()
    return got

def same(p, q):
    "Whether two states are equal to the bit: tensors, and lists and dicts of them"
    if hasattr(p, 'equal'): return p.equal(q)
    if isinstance(p, (tuple, list)): return len(p) == len(q) and all(map(same, p, q))
    return p.keys() == q.keys() and all(same(p[k], q[k]) for k in p) if isinstance(p, dict) else p == q
