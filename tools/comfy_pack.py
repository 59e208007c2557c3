"Write the node pack for ComfyUI: the nodes, a copy of the rooms that they need, and what the registry wants"
import argparse, ast, re, shutil
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).parent.parent
START = 'adapters.comfyui_nodes'        # the module that has the nodes; all that it imports comes along
ROOMS = 'schedules', 'transforms'       # whose faces are imported, so that every curve and rule is registered
SOURCE = root/'cf_guidance'

def path_of(module):
    "The file of a module, or `None`"
    base = SOURCE.joinpath(*module.split('.')) if module else SOURCE
    return next((p for p in (base.with_suffix('.py'), base/'__init__.py') if p.is_file()), None)

def named(node, module):
    "The modules that an import at the top of a module may mean"
    if node.level == 0: return []                                  # of another package
    package = module.split('.') if path_of(module).name == '__init__.py' else module.split('.')[:-1]
    base = [*package[:len(package) - node.level + 1], *filter(None, (node.module or '').split('.'))]
    return ['.'.join(base), *['.'.join([*base, a.name]) for a in node.names]]

def needed(modules):
    "Modules, and all that they import at the top"
    found, todo = set(), list(modules)
    while todo:
        module = todo.pop()
        if module in found or path_of(module) is None: continue
        found.add(module)
        tree = ast.parse(path_of(module).read_text())
        todo += [name for node in tree.body if isinstance(node, ast.ImportFrom) for name in named(node, module)]
        todo += ['.'.join(module.split('.')[:k]) for k in range(1, module.count('.') + 1)]
    return found

def relative(text, depth):
    "The text of a module whose imports do not depend on the name of the package, which another release may have here"
    dots = '.'*depth
    text = re.sub(r'^(\s*)from cf_guidance\.', rf'\1from {dots}', text, flags=re.M)
    return re.sub(r"import_module\('cf_guidance(\.[\w.]+)'\)",
                  lambda m: f"import_module('{dots}{m[1][1:]}', __package__)", text)

def settings():
    "Name and value of each line of settings.ini"
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini')
    return dict(ini['DEFAULT'])

PYPROJECT = '''[project]
name = "cf-guidance"
description = "Guidance that changes over the steps: schedules and transforms of classifier-free guidance, exact"
version = "{version}"
readme = "README.md"
license = {{ file = "LICENSE" }}
requires-python = ">={python}"
dependencies = ["{fastcore}"]

[project.urls]
Repository = "{url}"

[tool.comfy]
PublisherId = ""
DisplayName = "Classifier-free guidance: schedules and transforms"
Icon = ""
web = "web"
'''

INIT = '''"Nodes for ComfyUI: schedules and transforms of classifier-free guidance"
from .cf_guidance.adapters.comfyui_nodes import comfy_entrypoint

__all__ = ['comfy_entrypoint']
'''

def needs(known):
    "What the rules want besides torch, which a ComfyUI has"
    return next(r for r in known['requirements'].split() if r.startswith('fastcore'))

def project(known):
    "The pack's pyproject.toml"
    return PYPROJECT.format(version=known['version'], python=known['min_python'], fastcore=needs(known),
                            url=known.get('git_url') or f"https://github.com/{known['user']}/{known['repo']}")

def write(out):
    "Write the pack into a folder, which must not hold anything yet"
    out = Path(out)
    if out.exists() and any(out.iterdir()): raise SystemExit(f'`--out` must be a new or an empty folder; got {out}')
    for module in sorted(needed([START, *ROOMS, ''])):
        p = path_of(module)
        to = out/'cf_guidance'/p.relative_to(SOURCE)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(relative(p.read_text(), len(to.relative_to(out).parts) - 1))
    known = settings()
    (out/'__init__.py').write_text(INIT)
    (out/'pyproject.toml').write_text(project(known))
    (out/'requirements.txt').write_text(needs(known) + '\n')
    shutil.copy(root/'LICENSE', out/'LICENSE')
    shutil.copytree(root/'tools/comfy', out, dirs_exist_ok=True)      # help pages, workflows, what runs in the browser
    return out

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', required=True, help='a new folder; put it into custom_nodes of a ComfyUI')
    print(write(parser.parse_args().out))

if __name__ == '__main__': main()
