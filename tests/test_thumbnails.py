"A folder of large images: its page and its report hold no image that they do not look at"
import os
import numpy as np
import pytest
from PIL import Image
from cf_guidance.records import save_image, thumbnail_file, write_metadata, write_viewer
from cf_guidance.schedules import constant
from forks import Forks
from hosts import until as wait_for
from test_viewer import button, made_of, show, until           # `show` is a fixture

SIDE, MIB = 1024, 2**20

def large(folder, n, side=SIDE):
    "A folder of `n` large images of two schedules"
    stripes = np.zeros((side, side, 3), np.uint8)
    for k in range(n):
        stripes[:, ::32] = (k % 256, 90, 200 - k % 200)
        r = made_of(constant(3 + 4*(k % 2)), k//2, size=side, prompt=f'lighthouse {k//2 % 10} in fog')
        save_image(Image.fromarray(stripes), r, folder)
    write_metadata(folder)
    return folder

LOOKED = '''
import resource, sys, warnings
from cf_guidance.evaluation import evaluate
from cf_guidance.evaluation.report import report_html
from cf_guidance.records import write_viewer
warnings.simplefilter('ignore')
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak())
for folder in sys.argv[1:]:
    write_viewer(folder)
    report_html(evaluate(folder))
    print(peak())
'''

@pytest.mark.heavy
def test_memory(tmp_path, every):
    "The page and the report of many large images take the room of a few, and 300 MiB at most"
    n = 1000 if every else 40
    few, many = large(tmp_path/'few', 4), large(tmp_path/'many', n)
    for p in tmp_path.glob('*/thumbs/*.jpg'): p.unlink()                 # so that they are made where it is measured
    with Forks(tmp_path) as forks: said = forks.run(LOOKED, few, many, check=True).stdout.split()
    start, small, end = [int(k)*1024 for k in said]
    assert len(list(many.glob('thumbs/*.jpg'))) == n and (many/'index.html').is_file()
    assert end - start < 300*MIB and end - small < 30*3*SIDE**2          # of 40 images the 30th part would be seen

def test_small_images_have_none(tmp_path):
    "A folder of small images is as it was: no thumbnails, and the page shows the images"
    folder = large(tmp_path, 4, 64)
    page = write_viewer(folder)
    assert sorted(p.name for p in folder.iterdir()) == ['images', 'index.html', 'metadata.jsonl']
    assert 'thumbs/' in page.read_text() and '"thumbs":[]' in page.read_text()

DRAWN = '[...document.querySelectorAll("#grid img")].every(e => e.complete && e.naturalWidth)'

def sources(page, of): return page.locator(of).evaluate_all('es => es.map(e => e.getAttribute("src")).sort()')

def test_page(show, tmp_path):
    "The grid shows thumbnails, the panel the images"
    page = show(write_viewer(large(tmp_path, 4)))
    until(page, DRAWN)
    assert sources(page, '#grid img') == sorted(f'thumbs/{p.stem}.jpg' for p in tmp_path.glob('images/*.png'))
    button(page, 0, 0).click()
    until(page, f'document.querySelector(".pair img").naturalWidth == {SIDE}')
    assert sources(page, '.pair img')[0].startswith('images/')

def test_a_thumbnail_that_is_gone(browser, tmp_path):
    "The grid shows the image in its place, and nothing is missing"
    file = write_viewer(large(tmp_path, 4))
    lost, *rest = tmp_path.glob('images/*.png')
    thumbnail_file(lost).unlink()
    page = browser.new_page()
    page.goto(file.as_uri())
    wanted = sorted([f'images/{lost.name}', *(f'thumbs/{p.stem}.jpg' for p in rest)])
    wait_for(lambda: sources(page, '#grid img') == wanted, 'the image in place of its thumbnail', .05)
    until(page, DRAWN)
    assert page.inner_text('#count') == '4 shown'
    page.close()

def test_an_image_that_is_made_anew(tmp_path):
    "A newer image has another thumbnail at the next run's end, and nothing else is written"
    from cf_guidance.records import renew_viewer
    folder = large(tmp_path, 3)
    renew_viewer(folder)
    first = next(folder.glob('images/*.png'))
    others = {p: p.stat().st_mtime_ns for p in folder.glob('thumbs/*') if p != thumbnail_file(first)}
    when = thumbnail_file(first).stat().st_mtime_ns
    os.utime(first, ns=(when + 10**9, when + 10**9))
    os.utime(thumbnail_file(first), ns=(when, when))
    renew_viewer(folder)
    assert thumbnail_file(first).stat().st_mtime_ns > when
    assert others == {p: p.stat().st_mtime_ns for p in others}
