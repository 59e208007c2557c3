import runpy
from pathlib import Path
import pytest
from hosts import FLAGS, chromium

def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='run the heavier cases too')
    parser.addoption('--other-cpu', action='store_true', help='round as another CPU would, see other_cpu/sitecustomize.py')

def pytest_configure(config):
    if config.getoption('--other-cpu'): runpy.run_path(str(Path(__file__).parent/'other_cpu/sitecustomize.py'))

@pytest.fixture
def every(request): return request.config.getoption('--all')

@pytest.fixture(scope='module')
def browser():
    "A Chromium without a window, for the tests of one file"
    playwright = pytest.importorskip('playwright.sync_api', reason="playwright comes with the extra 'dev'")
    if chromium() is None: pytest.skip("no Chromium here: install Debian's package `chromium`")
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield b
        b.close()
