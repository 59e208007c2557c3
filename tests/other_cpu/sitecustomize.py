"""Rounds as another CPU would: with this folder in PYTHONPATH, in every Python that starts; in pytest with `--other-cpu`.

Another BLAS adds the products of a sum in another order, and in another one yet for another size of batch.
So each output of a linear layer, a convolution, an attention or a product of matrices moves by a few ulp of its own row's size.
How is drawn from its shape: the same call gives the same bits, another batch size gives others. `OTHER_CPU=1`, `2` ... are further CPUs."""
import functools, importlib.abc, importlib.util, os, sys, zlib
from pathlib import Path

# the standard deviation; half precision adds in float32 and rounds once
ULPS, HALF_ULPS = 2., .5
# a prime, so that rows do not meet the same noise again
PERIOD = 16381
CONVS = 'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d'
LAST = 'linear', 'scaled_dot_product_attention'
PRODUCTS = 'bmm', 'baddbmm', 'matmul', 'mm', 'addmm', 'einsum'
METHODS = 'bmm', 'baddbmm', 'matmul', 'mm', 'addmm', '__matmul__', '__rmatmul__'
which = int(os.environ.get('OTHER_CPU') or 0)

@functools.cache
def noise(device):
    "One period of normal numbers, which every output takes from another place on"
    import torch
    return torch.randn(PERIOD, generator=torch.Generator().manual_seed(which)).to(device)

def moved(out, dim, name):
    "`out` with each number moved by a few ulp of the size that its row along `dim` has"
    import torch
    if type(out) is not torch.Tensor or not out.dtype.is_floating_point or out.is_meta or out.dim(
    ) < 2 or not out.numel():
        return out
    with torch.no_grad():
        at = zlib.crc32(f'{name} {tuple(out.shape)} {out.dtype}'.encode()) % PERIOD
        r = noise(out.device).roll(-at).repeat(-(-out.numel()//PERIOD))[:out.numel()].view(out.shape)
        wide = torch.promote_types(out.dtype, torch.float32)
        size = torch.linalg.vector_norm(out, dim=dim, keepdim=True, dtype=wide)*out.shape[dim]**-.5
        off = (ULPS if wide == out.dtype else HALF_ULPS)*torch.finfo(out.dtype).eps*(size*r).nan_to_num(0., 0., 0.)
    return (out + off).to(out.dtype)

def other(f, dim, name):
    import torch
    from torch.overrides import handle_torch_function, has_torch_function
    @functools.wraps(f)
    def _other(*args, **kwargs):
        # a compiled or an exported network rounds in its own way
        if torch.compiler.is_compiling() or torch.jit.is_tracing(): return f(*args, **kwargs)
        # a mode compares by this name
        if has_torch_function(args): return handle_torch_function(_other, args, *args, **kwargs)
        out = f(*args, **kwargs)
        return out if kwargs.get('out') is not None else moved(out, dim, name)
    _other.is_other_cpu, _other.plain = True, f
    return _other

def change(torch):
    "Every way to a sum of products, once"
    F = torch.nn.functional
    for owner, names, dim in ((F, CONVS, 1), (F, LAST, -1), (torch, PRODUCTS, -1), (torch.Tensor, METHODS, -1),
                              (torch, CONVS, 1)):
        for name in names:
            f = getattr(owner, name)
            if not hasattr(f, 'is_other_cpu'): setattr(owner, name, other(f, dim, name.strip('_')))

def traceable(torch):
    "Let `torch.compile` take the plain functions as they are"
    for owner, names in ((torch, (*CONVS, *PRODUCTS)), (torch.nn.functional, (*CONVS, *LAST))):
        for name in names: torch.compiler.allow_in_graph(getattr(owner, name).plain)

class After(importlib.abc.MetaPathFinder):
    "Changes torch when a module is imported, so that what does without the module does not import it"
    def __init__(self, name, then): self.name, self.then = name, then
    def find_spec(self, name, path=None, target=None):
        if name != self.name: return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module): run(module); self.then(sys.modules['torch'])
        spec.loader.exec_module = exec_module
        return spec

def install():
    "In this process and in those that it starts"
    here = str(Path(__file__).parent)
    paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    os.environ['PYTHONPATH'] = os.pathsep.join([here, *[p for p in paths if p and os.path.abspath(p) != here]])
    for name, then in (('torch', change), ('torch._dynamo', traceable)):
        if name in sys.modules: then(sys.modules['torch'])
        else: sys.meta_path.insert(0, After(name, then))

install()
