import importlib.util, sys
from pathlib import Path
import pytest
from forks import Forks
from hosts import FLAGS, PATIENCE, chromium

def pytest_runtest_setup(item):
    "The one sampler of diffusers that wants another package"
    if 'DPMSolverSDE' in item.name: pytest.importorskip('torchsde')

def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='run the heavier cases too')
    parser.addoption('--comfy', action='store_true', help='run tests/comfy in a real ComfyUI, which is fetched')
    parser.addoption('--other-cpu', action='store_true',
                     help='round as another CPU would, see other_cpu/sitecustomize.py')

def pytest_ignore_collect(collection_path, config):
    "The tests in ComfyUI are a run of their own"
    if collection_path.name == 'comfy' and not config.getoption('--comfy'): return True

def pytest_configure(config):
    config.addinivalue_line('markers', 'page: looks at a page, in a browser or on the site')
    config.addinivalue_line('markers', 'mp4: writes MP4s, where these can be written')
    config.addinivalue_line('markers', 'heavy: runs with --all alone')
    if config.getoption('--other-cpu') and 'other_cpu' not in sys.modules:
        spec = importlib.util.spec_from_file_location('other_cpu', Path(__file__).parent/'other_cpu/sitecustomize.py')
        sys.modules['other_cpu'] = importlib.util.module_from_spec(spec)      # by a name that torch.compile finds again
        spec.loader.exec_module(sys.modules['other_cpu'])

def pytest_collection_modifyitems(config, items):
    for item in items:
        if {'browser', 'site'} & set(item.fixturenames): item.add_marker('page')
        if item.get_closest_marker('heavy') and not config.getoption('--all'):
            item.add_marker(pytest.mark.skip(reason='with --all'))

@pytest.fixture
def every(request): return request.config.getoption('--all')

@pytest.fixture(scope='session')
def forks(tmp_path_factory):
    "Starts processes that need not import the libraries"
    with Forks(tmp_path_factory.mktemp('forks')) as server: yield server

@pytest.fixture(scope='module')
def browser():
    "A Chromium without a window, for the tests of one file"
    playwright = pytest.importorskip('playwright.sync_api', reason="playwright comes with the extra 'dev'")
    if chromium() is None: pytest.skip("no Chromium here: install Debian's package `chromium`")
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), args=FLAGS, timeout=1000*PATIENCE)
        own = b.new_page
        def new_page(**kwargs):
            page = own(**kwargs)
            page.set_default_timeout(1000*PATIENCE)
            return page
        b.new_page = new_page
        yield b
        b.close()
