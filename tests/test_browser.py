"The widgets, used with a mouse in a real browser"
import re
from types import SimpleNamespace
import pytest
from cf_guidance import schedules
from cf_guidance.transforms import TRANSFORMS, guidance, parameters
from hosts import at_home, chromium, drag, free_port, listening, notebook, served, slider, until

playwright = pytest.importorskip('playwright.sync_api', reason="playwright comes with the extra 'dev'")
pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: install Debian's package `chromium`")

EXPLORER = 'from cf_guidance.widgets import ScheduleExplorer\nexplorer = ScheduleExplorer(steps=20)\nexplorer'

@pytest.fixture(scope='module')
def jupyter(tmp_path_factory):
    "One server, which has JupyterLab and Notebook 7, and one notebook, whose kernel all tests share"
    for m in ('jupyterlab', 'notebook'): pytest.importorskip(m)
    d, port = tmp_path_factory.mktemp('jupyter'), free_port()
    for name, vals in (('notebook-extension/tracker', '{"windowingMode": "none"}'),
                       ('apputils-extension/notification', '{"fetchNews": "false", "checkForUpdates": false}')):
        f = d/f'home/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings'
        f.parent.mkdir(parents=True)
        f.write_text(vals)
    (d/'tests.ipynb').write_text(notebook('', EXPLORER))
    args = [
        '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0',
        '--IdentityProvider.token=', f'--ServerApp.root_dir={d}'
    ]
    with served(args, port, d/'log', d/'home') as url: yield SimpleNamespace(url=url, folder=d)

def opened(browser, url, width=1300):
    page = browser.new_page(viewport={'width': width, 'height': 1000})
    page.elsewhere, home = [], re.match('http(://[^/]*)', url)[1]
    ours = re.compile(f'(http|ws){home}/|data:|blob:')
    page.on('request', lambda r: None if ours.match(r.url) else page.elsewhere.append(r.url))
    page.goto(url)
    return page

@pytest.fixture(scope='module')
def lab(browser, jupyter):
    "The notebook in JupyterLab"
    page = opened(browser, f'{jupyter.url}/lab/tree/tests.ipynb?reset')
    yield page
    page.close()

def run_cell(page, i, source):
    "Give a cell of an open notebook this source, and run it with the keyboard; again where the kernel was not ready"
    cell = page.locator('.jp-Notebook .jp-CodeCell').nth(i)
    editor, prompt = cell.locator('.cm-content'), cell.locator('.jp-InputPrompt')
    editor.click()
    page.keyboard.press('ControlOrMeta+a'); page.keyboard.insert_text(source)
    before = prompt.inner_text()
    page.keyboard.press('Shift+Enter')
    def ran():
        page.wait_for_timeout(1000)
        now = prompt.inner_text()
        # an error calls off the cells that wait, so one after the other
        if now.strip() == '[ ]:': editor.click(); page.keyboard.press('Shift+Enter')
        return now != before and now.strip()[1:-2].isdigit()
    until(ran, f'cell {i} to have run')

@pytest.fixture(params=['voila', 'lab', 'notebook'])
def page(request, browser, tmp_path):
    "The explorer, ready, in one of its hosts"
    if request.param == 'voila':
        pytest.importorskip('voila')
        port, code = free_port(), 'from cf_guidance.cli import main_explore; main_explore()'
        proc = request.getfixturevalue('forks').start(code, '--no-browser', '--port', port, **at_home(tmp_path/'home'))
        with listening(proc, port, lambda: proc.stderr) as url: yield from ready(opened(browser, url))
    elif request.param == 'lab':
        page = request.getfixturevalue('lab')
        run_cell(page, 1, EXPLORER)
        yield from ready(page, kept=True)
    else:
        page = opened(browser, f'{request.getfixturevalue("jupyter").url}/notebooks/tests.ipynb?reset')
        run_cell(page, 1, EXPLORER)
        yield from ready(page)

def ready(page, kept=False):
    page.wait_for_selector('path.curve')
    finished(page)
    yield page
    if not kept: page.close()

def code(page): return page.locator('code.made').inner_text()
def settled(page):
    "The last move of the mouse has been heard: the kernel is idle, and the line stays"
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first
    def stays():
        idle.wait_for()
        was = code(page)
        page.wait_for_timeout(1000)
        return idle.is_visible() and code(page) == was
    until(stays, 'the line to stay')
def status(page): return page.locator('[role=status], [role=alert]').last.inner_text()
def image(page): return page.locator('img[src^="data:image/png"]').first.get_attribute('src')
def beside(page): return page.locator('figure.plain img').get_attribute('src')
# the curve is drawn anew at each move, so its element does not stay
def pixels(page, box): return page.screenshot(clip=box)
def made(text): return eval(text, {**schedules.CURVES, 'lift': schedules.lift})
def transform(text): return eval(text, {**schedules.CURVES, 'lift': schedules.lift, 'guidance': guidance})
def whole(page, part):
    "The line that makes the transform, as soon as it holds `part`"
    line = page.locator('code.whole')
    line.filter(has_text=part).wait_for()
    return line.inner_text()
def other_image(page, was):
    page.wait_for_function('was => document.querySelector(\'img[src^="data:image/png"]\').src !== was', arg=was)
    finished(page)
    return image(page)
def finished(page): page.get_by_text(re.compile(r'^\d+ steps in')).wait_for()
def number(page, name, val):
    box = page.get_by_label(name, exact=True)
    box.fill(str(val)); box.press('Enter')

def test_explorer(page, every):
    "Drag: the curve follows; let go: another image; drag during a render: it is called off; a wrong value: words"
    place = page.locator('svg:has(path.curve)').bounding_box()
    before, first, line = pixels(page, place), image(page), code(page)
    assert pixels(page, place) == before
    assert made(line) == schedules.cosine()
    assert page.get_by_role('heading', name='Schedule explorer').is_visible() and page.locator('.legend').is_visible()
    # Voila's page is ours alone
    if '/lab/' not in page.url and '/notebooks/' not in page.url: assert page.elsewhere == []
    def held():
        page.wait_for_function('was => document.querySelector("code.made").innerText !== was', arg=line)
        return until(lambda: pixels(page, place) != before, 'the curve to follow')
    assert drag(page, slider(page, 'max_val'), 40, held=held)
    page.wait_for_function('was => document.querySelector(\'img[src^="data:image/png"]\').src !== was', arg=first)
    finished(page)
    assert image(page) != first and made(code(page)).args[0][1] > 8
    # JupyterLab is asked all of it
    if not every and '/lab/' not in page.url: return

    number(page, 'steps', 60)
    page.get_by_text(re.compile(r'^step \d+ of 60')).wait_for()
    line = code(page)
    drag(page, slider(page, 'min_val'), 30)
    page.get_by_text(re.compile(r'^60 steps in .* older ones cancelled')).wait_for()
    assert code(page) != line

    number(page, 'steps', 20)
    page.get_by_text(re.compile(r'^20 steps in')).wait_for()
    last = image(page)
    drag(page, slider(page, 'seen at step'), -100)
    page.get_by_text(re.compile(r'^the image that step \d+ predicts')).wait_for()
    page.wait_for_function('was => document.querySelector(\'img[src^="data:image/png"]\').src !== was', arg=last)

    page.get_by_label('schedule', exact=True).first.select_option('within')
    finished(page)
    good = page.locator('path.curve').get_attribute('d')
    number(page, 'sigma', '5, 1')
    page.get_by_text('with 0 <= lo < hi; got (5, 1)').wait_for()
    assert page.locator('path.curve').get_attribute('d') == good
    number(page, 'sigma', '1, 5')
    finished(page)
    assert made(code(page)) == schedules.cosine().within(sigma=(1, 5))

    first = image(page)
    for name, own in (('apg', 'eta'), ('rescale', 'phi')):        # a transform from the menu, and a slider of its own
        page.get_by_label('transform', exact=True).select_option(name)
        chosen, first = whole(page, f"guidance('{name}'"), other_image(page, first)
        drag(page, slider(page, own), 40 if own == 'eta' else -40)
        line, first = whole(page, f', {own}='), other_image(page, first)
        assert line != chosen and transform(line).all_params(schedules.Step(0, 20, sigma=3.))[own] != parameters(
            TRANSFORMS[name])[own].default
    page.get_by_label('space', exact=True).select_option('epsilon')
    assert transform(whole(page, 'epsilon')).chosen()['space'] == 'epsilon' and other_image(page, first)

def test_explorer_compares(lab):
    "The constant's image stands while the schedule moves, and follows what both images share; typing narrows the methods"
    page = lab
    run_cell(page, 1, EXPLORER.replace('steps=20', 'steps=8, preview=2'))
    page.locator('figure.plain img').wait_for()
    finished(page)
    first, stood = image(page), beside(page)
    drag(page, slider(page, 'max_val'), 30)
    moved = other_image(page, first)
    assert beside(page) == stood != moved
    def follows(act):
        was, own = beside(page), image(page)
        act()
        page.wait_for_function('''([own, was]) => { const [a, b] = document.querySelectorAll('figure img');
            return a && b && a.src !== own && b.src !== was }''', arg=[own, was])
        page.wait_for_function('''() => !document.querySelector('figure.plain').innerText.includes('step')''')
        finished(page)
    follows(lambda: page.get_by_label('sampler', exact=True).select_option('euler'))
    follows(lambda: number(page, 'seed', 7))
    own, was = image(page), beside(page)
    number(page, 'constant g', 1)
    page.get_by_text('constant 1, plain guidance', exact=True).wait_for()
    page.wait_for_function('was => document.querySelector("figure.plain img")?.src !== was', arg=was)
    assert image(page) == own

    names = page.get_by_label('transform', exact=True).locator('option')
    every = names.all_inner_texts()
    page.get_by_label('filter', exact=True).press_sequentially('clip')
    page.get_by_text(re.compile(r'^\d of \d+ methods$')).wait_for()
    assert code(page) and not page.locator('code.whole').count()
    assert {'cfg', 'static_threshold'} <= {*names.all_inner_texts()} < {*every}
    page.get_by_label('transform', exact=True).select_option('static_threshold')
    whole(page, "guidance('static_threshold'")
    page.get_by_label('filter', exact=True).fill('mimic')
    whole(page, "guidance('mimic'")
    page.get_by_label('filter', exact=True).fill('')
    page.get_by_label('methods', exact=True).select_option('project')
    page.get_by_text('5 of', exact=False).wait_for()
    assert {*names.all_inner_texts()} == {'mimic', *[k for k, c in TRANSFORMS.items() if 'projection' in c.__module__]}

def test_line_and_drawing(lab):
    "The line of Python, pasted into a cell, is the explorer's schedule; a curve is drawn by hand"
    page = lab
    run_cell(page, 1, EXPLORER.replace('steps=20', 'steps=20, images=False'))
    page.wait_for_selector('path.curve')
    drag(page, slider(page, 'k_decay'), 25)
    page.get_by_text(re.compile('k_decay=')).first.wait_for()
    settled(page)
    run_cell(page, 0, f'from cf_guidance.schedules import *\nprint("equal:", explorer.schedule == {code(page)})')
    page.get_by_text('equal: True', exact=True).wait_for()

    page.get_by_label('schedule', exact=True).first.select_option('from_list')
    pad = page.locator('svg[aria-label^="Draw"]')
    pad.wait_for()
    before, box = made(code(page)).values(20), pad.bounding_box()
    page.mouse.move(box['x'] + 5, box['y'] + box['height'] - 3); page.mouse.down()
    page.mouse.move(box['x'] + box['width'] - 5, box['y'] + 5, steps=15); page.mouse.up()
    page.wait_for_function('was => document.querySelector("code.made").innerText !== was', arg=f'lift({before})')
    settled(page)
    drawn = made(code(page)).values(20)
    assert drawn == sorted(drawn) and drawn[0] < 1 and drawn[-1] > 13

@pytest.mark.heavy
def test_sweep_browser(lab, jupyter):
    "Menus choose, the wipe moves, a click shows the recipe, a folder that is no sweep is refused in words"
    from cf_guidance.sweeps import minimum_pairs, run
    from cf_guidance.transforms import GuidanceTfm
    tries = minimum_pairs({'max_val': [3, 12]}, {'num_steps': 4})
    run('a shiny red cone', tries, GuidanceTfm, folder=jupyter.folder/'sweep', steps=4, progress=False)
    page = lab
    run_cell(page, 0, "from cf_guidance.widgets.browser import SweepBrowser\nSweepBrowser('.')")
    run_cell(page, 1, "SweepBrowser('sweep')")
    page.get_by_text(re.compile('must be that of a sweep')).first.wait_for()
    page.wait_for_selector('path.curve')
    first = image(page)
    drag(page, slider(page, 'wipe'), 60)
    page.wait_for_function('was => document.querySelector(\'img[src^="data:image/png"]\').src !== was', arg=first)
    page.get_by_text('recipe', exact=True).first.click()
    assert '"prompt": "a shiny red cone"' in page.locator('details[open] pre').inner_text()
    menu = page.get_by_label('schedule', exact=True)
    menu.last.select_option(menu.first.evaluate('m => m.value'))
    page.get_by_text('the two are equal').wait_for()
