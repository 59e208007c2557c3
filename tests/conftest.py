import pytest

def pytest_addoption(parser): parser.addoption('--all', action='store_true', help='run the heavier cases too')

@pytest.fixture
def every(request): return request.config.getoption('--all')
