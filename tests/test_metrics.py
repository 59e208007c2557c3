"The metrics agree with the libraries that have them, on the same features, where these are installed"
import numpy as np, pytest, torch
from cf_guidance.evaluation import frechet, kid, prdc, vendi

def sets(seed, n=120, m=150, d=12):
    "Two sets of features that differ in mean and spread"
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) @ (np.eye(d) + .2*rng.normal(size=(d, d))) + .3

class Given(torch.nn.Module):
    "An extractor that hands on the features it is given"
    def __init__(self, d): super().__init__(); self.num_features = d
    def forward(self, x): return x

# the last: fewer images than features
@pytest.mark.parametrize('seed,n,m,d', [(0, 120, 150, 12), (1, 60, 400, 3), (2, 20, 25, 40)])
def test_frechet_as_torchmetrics(seed, n, m, d):
    fid = pytest.importorskip('torchmetrics.image.fid')
    made, real = sets(seed, n, m, d)
    theirs = fid.FrechetInceptionDistance(feature=Given(d), normalize=True).set_dtype(torch.float64)
    theirs.update(torch.tensor(real), real=True); theirs.update(torch.tensor(made), real=False)
    assert frechet(made, real) == pytest.approx(theirs.compute().item(), rel=1e-5)

@pytest.mark.parametrize('seed', [0, 1])
def test_kid_as_torchmetrics(seed):
    "One block of all images; torchmetrics wants as many of both"
    module = pytest.importorskip('torchmetrics.image.kid')
    made, real = sets(seed, 100, 100)
    theirs = module.KernelInceptionDistance(feature=Given(12), subsets=1, subset_size=100, normalize=True)
    theirs.update(torch.tensor(real), real=True); theirs.update(torch.tensor(made), real=False)
    assert kid(made, real) == pytest.approx(theirs.compute()[0].item(), rel=1e-5)

@pytest.mark.parametrize('seed,k', [(0, 5), (1, 1), (2, 10)])
def test_prdc_as_prdc(seed, k, capsys):
    package = pytest.importorskip('prdc')
    made, real = sets(seed)
    assert prdc(made, real,
                k) == pytest.approx(package.compute_prdc(real_features=real, fake_features=made, nearest_k=k))

@pytest.mark.parametrize('seed,n,d', [(0, 30, 8), (1, 5, 20)])
def test_vendi_as_vendi_score(seed, n, d):
    package = pytest.importorskip('vendi_score.vendi')
    x = sets(seed, n, 10, d)[0]
    assert vendi(x) == pytest.approx(package.score_X(x, normalize=True), rel=1e-6)
    assert vendi(x) == pytest.approx(package.score_dual(x, normalize=True), rel=1e-6)
