"How fast the explorer answers, in JupyterLab in Chromium: `python benchmarks/sliders.py` rewrites sliders.json"
import json, os, platform, statistics, sys, tempfile, time
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'tests')]
from hosts import FLAGS, chromium, free_port, notebook, served, slider
from test_browser import EXPLORER, finished, opened, run_cell
from playwright.sync_api import sync_playwright

WATCH = """() => {
  window.drawn = [];
  const place = document.querySelector('svg:has(path.curve)').closest('.widget-html');
  new MutationObserver(() => window.drawn.push([performance.now(), document.querySelector('code.made').innerText])).observe(place, {childList: true, subtree: true});
}"""

def redraws(page, moves=60):
    "Milliseconds from a move of the mouse to the next curve, with a pause between moves so that each has its own"
    page.evaluate(WATCH)
    box = slider(page, 'max_val').bounding_box()
    x, y, took = box['x'] + 8, box['y'] + 8, []
    page.mouse.move(x, y); page.mouse.down()
    for k in range(moves):
        before = page.evaluate('[performance.now(), window.drawn.length]')
        page.mouse.move(x + (k % 12 + 1)*(1 if k//12 % 2 else -1)*2, y)
        page.wait_for_function('n => window.drawn.length > n', arg=before[1], polling=1)
        took.append(page.evaluate('window.drawn.at(-1)[0]') - before[0])
        page.wait_for_timeout(30)
    page.mouse.up()
    return took

def renders(page, times=5):
    "Seconds from letting go to the finished image of 20 steps, the third of a second of rest included, and as the status says without it"
    took, said = [], []
    for k in range(times):
        box = slider(page, 'min_val').bounding_box()
        page.mouse.move(box['x'] + 8, box['y'] + 8)
        page.mouse.down()
        page.mouse.move(box['x'] + 18, box['y'] + 8)
        page.mouse.up()
        t = time.perf_counter()
        page.get_by_text('preview: ').wait_for()
        finished(page)
        took.append(time.perf_counter() - t)
        said.append(float(page.get_by_text('20 steps in').inner_text().split()[3]))
    return took, said

def machine():
    model = next(
        (l.split(':')[1].strip()
         for l in open('/proc/cpuinfo')
         if l.startswith('model name')), platform.machine()) if os.path.exists('/proc/cpuinfo') else platform.machine()
    return f'{os.cpu_count()} cores of {model}, no GPU, Python {platform.python_version()}'

def main():
    d, port = Path(tempfile.mkdtemp()), free_port()
    args = [
        '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=',
        f'--ServerApp.root_dir={d}'
    ]
    (d/'a.ipynb').write_text(notebook(EXPLORER))
    with served(args, port, d/'log', d/'home') as url, sync_playwright() as p:
        page = opened(p.chromium.launch(executable_path=chromium(), args=FLAGS), f'{url}/lab/tree/a.ipynb')
        run_cell(page, 0, EXPLORER)
        page.wait_for_selector('path.curve')
        finished(page)
        page.locator('figure.plain img').wait_for()
        moves = redraws(page)
        page.get_by_text('20 steps in').wait_for()
        whole, said = renders(page)
    res = dict(machine=machine(), command='python benchmarks/sliders.py', redraw_ms=[round(v, 1) for v in moves],
               release_to_image_s=[round(v, 2) for v in whole], render_20_steps_s=said)
    Path(__file__).with_suffix('.json').write_text(json.dumps(res, indent=1) + '\n')
    q = statistics.quantiles(moves, n=20)
    print(
        f'redraw: median {statistics.median(moves):.0f} ms, 95% {q[18]:.0f} ms; release to image '
        f'{statistics.median(whole):.2f} s, of which the render {statistics.median(said):.1f} s'
    )

if __name__ == '__main__': main()
