"The docs site: every link and anchor, every picture, and every page in a browser at two widths"
import base64, io, re, subprocess, sys, threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
import numpy as np, pytest
from PIL import Image

root = Path(__file__).parent.parent
pytestmark = pytest.mark.heavy
HOME = 'https://enzokro.github.io/cf_guidance/'

class Page(HTMLParser):
    "The links, anchors and pictures of a page"
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.unnamed, self.svgs = [], set(), [], 0
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        self.links += [a[k] for k in ('href', 'src') if a.get(k) and tag in ('a', 'img', 'link', 'script', 'iframe')]
        if tag == 'img' and not (a.get('alt') or '').strip() and a.get('role') != 'presentation':
            self.unnamed.append((a.get('src') or '')[:60])

@pytest.fixture(scope='module')
def site():
    "The site, built as the README says, without Quarto"
    subprocess.run([sys.executable, 'tools/nbs.py', 'docs'], cwd=root, check=True, capture_output=True)
    return root/'_docs'

@pytest.fixture(scope='module')
def pages(site):
    return {p.relative_to(site).as_posix(): Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html'))}

WANTED = [
    f'{name}.html' for name in
    ('index', 'tutorials/getting_started', 'gallery', 'changelog', 'schedules/schedules', 'plots/plots',
     'transforms/transforms', 'widgets/widgets', 'widgets/page', 'cli/cli', 'tutorials/dynamic_cfg_pt1')
]

def test_pages_are_there(pages): assert set(WANTED) <= set(pages)

def test_links_and_anchors(site, pages):
    "Links within the site lead to a file, and to an anchor in it"
    broken = []
    for name, page in pages.items():
        for link in page.links:
            if link.startswith(('data:', 'mailto:', 'javascript:')): continue
            url, anchor = urldefrag(urljoin(HOME + name, link))
            if not url.startswith(HOME.rstrip('/')): continue
            target = unquote(url[len(HOME):].split('?')[0]) or 'index.html'
            if target.endswith('/'): target += 'index.html'
            if not (site/target).exists(): broken.append((name, link))
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids: broken.append((name, link))
    assert broken == []
    assert sum(len(p.links) for p in pages.values()) > 500

def test_pages_lead_to_their_source(site, pages):
    "Each page has a link to the file that it is made from, and a tutorial one that opens it in Colab"
    repo = 'github.com/enzokro/cf_guidance/blob/main/'
    made = {'index.html', *pages} - {'404.html'}
    for name in made:
        links = [link for link in pages[name].links if repo in link and '/nbs/' in link]
        source = next(link for link in links if link.startswith(f'https://{repo}')).partition(repo)[2]
        assert (root/source).is_file() and re.sub(r'(?<!\w)\d+[a-z]*_', '', source)[4:].split('.')[0] == name[:-5], name
        tutorial = name.startswith(('tutorials/', 'gallery', 'model_card'))
        colab = f'https://colab.research.google.com/github/enzokro/cf_guidance/blob/main/{source}'
        assert (colab in pages[name].links) == tutorial, name

FOLDED = re.compile(r'<details class="code-fold">\s*<summary>The test of these figures</summary>(.*?)</details>', re.S)

def test_tests_are_folded_away(site):
    "A tutorial shows its prose and the code that a user would type; each test of its figures is behind a summary"
    text = lambda html: re.sub(r'<[^>]*>', '', html)
    for nb in [*(root/'nbs/tutorials').glob('*.ipynb'), root/'nbs/gallery.ipynb', root/'nbs/model_card.ipynb']:
        page = (site/nb.relative_to(root/'nbs')).with_suffix('.html').read_text()
        folded, open_ = FOLDED.findall(page), text(FOLDED.sub('', page))
        assert folded and '<p>' not in ''.join(folded) and '<img' not in ''.join(folded), nb.name
        for part in folded: assert re.search(r'\bassert\b|\btest_\w+\(|\bexpect_fail\b', text(part)), (nb.name, part)
        assert not re.search(r'^\s*(assert |test_eq\(|test_close\()', open_, re.M), nb.name

def test_signatures(site):
    "They name their parameters, and take no type from a default of None"
    texts = {p.relative_to(site).as_posix(): re.sub('<[^>]*>', '', p.read_text()) for p in site.rglob('*.html')}
    assert [n for n, t in texts.items() if ':NoneType=None' in t] == []
    assert [n for n, t in texts.items() if re.search(r'^def \w+\(\n    \*args, \*\*kwargs\n\)', t, re.M)] == []
    assert [n for n, t in texts.items() if '=&lt;lambda&gt;' in t] == []
    assert 'Step(\n    idx:int=0' in texts['schedules/steps.html']
    # of a named tuple, a dataclass, a function that remembers, one with more arguments, and a method of Python's own
    assert 'def Pieces(\n    tokenizer, text_encoder, vae' in texts['pieces/parts.html']
    assert 'path:Path, # Its file\n' in texts['evaluation/any_images.html']
    assert 'prompt:str, # Such as' in texts['worlds/prompts.html']
    assert '**kwargs, # For `sample_latents`' in texts['evaluation/displacement.html']
    assert 'Return repr(self)' not in ''.join(texts.values())
    assert 'RescaleGuidance(\n    schedules:dict' in texts['transforms/normalise.html']

def test_pictures_have_words(pages): assert {n: p.unnamed for n, p in pages.items() if p.unnamed} == {}

def test_titles_stand_once(site):
    for p in site.rglob('*.html'):
        titles = re.findall(r'<h1[^>]*>(.*?)</h1>', p.read_text(), re.S)
        assert len(titles) == len({re.sub('<[^>]*>', '', t).strip() for t in titles}), p.name

IMAGE = re.compile(r'<img [^>]*\bclass="(light|dark)-content[^>]*>')

def pixels(tag, page):
    src = re.search(r'src="([^"]+)"', tag)[1]
    data = base64.b64decode(src.partition(',')[2]) if src.startswith('data:') else (page.parent/src).read_bytes()
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'), float)

def test_pictures_have_a_dark_form(site):
    "White paper is as dark as the page, dark ink is light, and a photograph is as it was"
    for name in ('index', 'gallery', 'tutorials/how_much'):
        page = site/f'{name}.html'
        tags = [(m[1], m[0]) for m in IMAGE.finditer(page.read_text())]
        assert [t for t, _ in tags] == ['light', 'dark']*(len(tags)//2) and tags
        for (_, light), (_, dark) in zip(tags[::2], tags[1::2]):
            a, b = pixels(light, page), pixels(dark, page)
            assert a.shape == b.shape
            paper = a.min(-1) > 235
            assert paper.mean() > .05 and np.median(b[paper]) < 80, light[:80]
    (_, light), (_, dark) = [(m[1], m[0]) for m in IMAGE.finditer((site/'gallery.html').read_text())][:2]
    a, b = pixels(light, site/'gallery.html'), pixels(dark, site/'gallery.html')
    photo = (np.abs(a - b).max(-1) < 16) & (a.max(-1) - a.min(-1) > 40)
    assert photo.sum() > .9*(a.max(-1) - a.min(-1) > 40).sum()

def test_nothing_from_elsewhere(pages):
    "No script, style or picture is fetched from another host"
    for name, page in pages.items():
        text = (root/'_docs'/name).read_text(encoding='utf-8')
        for tag in ('<script src="http', '<img src="http', 'rel="stylesheet" href="http'): assert tag not in text, name

@pytest.fixture(scope='module')
def served(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

def test_every_page_opens(pages, served, browser, every):
    "No console error, no failed request, and nothing wider than the window, on a phone and on a screen"
    wrong, page = [], browser.new_page()
    page.on('console', lambda m: wrong.append((page.url, m.text)) if m.type == 'error' else None)
    page.on('pageerror', lambda e: wrong.append((page.url, str(e))))
    # the next page ends what is under way
    page.on('requestfailed', lambda r: None if r.failure == 'net::ERR_ABORTED' else wrong.append((page.url, r.url)))
    for name in pages if every else dict.fromkeys([*WANTED, *list(pages)[::5]]):      # with --all really every page
        page.set_viewport_size({'width': 390, 'height': 200})
        page.goto(f'{served}/{name}', wait_until='load')
        for width in (390, 1280):
            page.set_viewport_size({'width': width, 'height': 200})
            over = page.evaluate('document.scrollingElement.scrollWidth - innerWidth')
            if over > 0: wrong.append((name, width, f'{over} px wider than the window'))
    page.close()
    assert wrong == []

LOOK = """() => {
    const numbers = c => { const v = c.match(/[0-9.]+/g).map(Number); return [...v.slice(0, 3), v[3] ?? 1] }
    const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1 - a[3]))
    const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4 })
        return .2126*r + .7152*g + .0722*b }
    const parents = e => e ? [e, ...parents(e.parentElement)] : [], of = e => getComputedStyle(e)
    const ground = e => parents(e).reverse().map(p => numbers(of(p).backgroundColor))
        .reduce((below, c) => over(c, below), [255, 255, 255])
    const low = new Set(), words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    let count = 0
    while (words.nextNode()) {
        const said = words.currentNode.textContent.trim(), e = words.currentNode.parentElement
        if (!said || e.closest('script, style, noscript, option') || !e.checkVisibility({visibilityProperty: true})) continue
        count += said.split(/\\s+/).length
        if (parents(e).some(p => of(p).backgroundImage !== 'none')) continue
        const below = ground(e), own = numbers(e instanceof SVGElement ? of(e).fill : of(e).color), size = parseFloat(of(e).fontSize)
        own[3] *= parents(e).reduce((o, p) => o*of(p).opacity, 1)
        const [a, b] = [light(over(own, below)), light(below)], ratio = (Math.max(a, b) + .05)/(Math.min(a, b) + .05)
        if (ratio < (size >= 24 || size >= 18.66 && of(e).fontWeight >= 700 ? 3 : 4.49)) low.add(`${ratio.toFixed(1)}: ${said.slice(0, 40)}`)
    }
    const wide = e => { const r = e.getBoundingClientRect(); return r.width && (r.right > innerWidth + 1 || r.left < -1) }
    const outside = [...document.querySelectorAll('img, svg, canvas, video')].filter(wide).map(e => `outside: ${e.outerHTML.slice(0, 60)}`)
    const broken = [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => `broken: ${i.src.slice(0, 60)}`)
    const empty = count < 40 ? [`only ${count} words`] : []
    const cut = [...document.querySelectorAll('main :is(h1, h2, h3, h4)')].filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => `cut off: ${e.textContent.slice(0, 40)}`)
    // on a screen the rows of a printed table are whole, and so is a table
    const desk = innerWidth >= 1280 ? [...document.querySelectorAll('main pre.columns .line')] : []
    const rows = desk.filter(e => /\\S {2,}\\S/.test(e.textContent) && e.getClientRects()[0]?.height > 1.7*parseFloat(of(e).lineHeight))
        .map(e => `wraps: ${e.textContent.slice(0, 60)}`)
    const tables = innerWidth < 1280 ? [] : [...document.querySelectorAll('main table')]
        .filter(t => t.getBoundingClientRect().width > t.parentElement.clientWidth + 1).map(t => `wide: ${t.textContent.slice(0, 60)}`)
    const ways = document.scrollingElement.scrollWidth > innerWidth ? ['scrolls sideways'] : []
    return [...low, ...outside, ...broken, ...empty, ...cut, ...ways, ...rows, ...tables] }"""

LOOKED_AT = [
    f'{name}.html' for name in
    ('index', 'gallery', 'tutorials/getting_started', 'tutorials/claims', 'schedules/operators', 'adapters/guiders',
     'widgets/page', 'training/scenes_unet')
]

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pages_look_well(pages, served, browser, every, scheme):
    "On a screen and on a phone the words stand out from their ground, and pictures are whole and in sight"
    page, wrong = browser.new_page(viewport={'width': 1280, 'height': 900}, color_scheme=scheme), []
    page.on('request', lambda r: None if r.url.startswith((served, 'data:')) else wrong.append(('elsewhere', r.url)))
    for name in set(pages) - {'404.html'} if every else LOOKED_AT:
        page.goto(f'{served}/{name}', wait_until='load')
        assert page.evaluate("document.documentElement.classList.contains('quarto-dark')") == (scheme == 'dark')
        for width in (1280, 390):
            page.set_viewport_size({'width': width, 'height': 900})
            wrong += [(name, width, said) for said in page.evaluate(LOOK)]
    page.close()
    assert wrong == []

def test_search_finds(served, browser):
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.goto(f'{served}/index.html', wait_until='networkidle')
    page.keyboard.press('/')
    box = page.locator('input[type=search]:visible').first
    box.fill('with_mean')
    page.locator('.search-result[href*="schedules/operators.html"]').first.wait_for()
    page.close()

CONTRAST = """([text, box]) => {
    const of = e => getComputedStyle(e), light = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => {
        v /= 255; return v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4 }); return .2126*r + .7152*g + .0722*b }
    const [a, b] = [light(of(text).color), light(of(box).backgroundColor)]
    return (Math.max(a, b) + .05)/(Math.min(a, b) + .05) }"""

def test_search_can_be_read(served, browser):
    "The words of a result stand out from its box, in light and in dark, and a guide comes before a page of the reference"
    for scheme in ('light', 'dark'):
        page = browser.new_page(viewport={'width': 1280, 'height': 900}, color_scheme=scheme)
        page.goto(f'{served}/index.html', wait_until='networkidle')
        page.keyboard.press('/')
        page.locator('input[type=search]:visible').first.fill('confidence interval')
        page.locator('.search-result-text').first.wait_for()
        box = page.locator('.smalldocs-search-results').first.element_handle()
        for words in ('.search-result-text', '.search-result-title'):
            for found in page.locator(words).element_handles():
                assert page.evaluate(CONTRAST, [found, box]) >= 4.5, words
        links = [r.get_attribute('href') for r in page.locator('.search-result').all()]
        guides = [k for k, link in enumerate(links) if 'tutorials/' in link or 'index' in link]
        reference = [k for k, link in enumerate(links) if 'evaluation/' in link]
        assert guides and reference and min(guides) < min(reference), links
        page.close()

def test_no_code_is_cut_off(served, browser, pages):
    "At 1280 pixels no block of code is wider than its place"
    page, wrong = browser.new_page(viewport={'width': 1280, 'height': 900}), []
    for name in [*WANTED, 'tutorials/claims.html', 'evaluation/statistics.html', 'sweeps/sweep.html']:
        page.goto(f'{served}/{name}', wait_until='load')
        wide = 'es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))'
        wrong += [(name, text) for text in page.eval_on_selector_all('pre', wide)]
    page.close()
    assert wrong == []

def test_page_without_kernel(served, browser):
    "The explorer on the site draws another curve when its slider is dragged"
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.goto(f'{served}/widgets/page.html', wait_until='networkidle')
    curve = page.locator('.cfg-page path.curve')
    before, handle = curve.get_attribute('d'), page.locator('.cfg-page input[type=range]').nth(1)
    box = handle.bounding_box()
    handle.click(position={'x': .9*box['width'], 'y': box['height']/2})
    assert curve.get_attribute('d') != before
    page.close()
