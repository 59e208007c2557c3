"""Pack the log of a race without its images, so that a page can be computed from it:

    cfg_race --arms all --model scenes,scenes-weak --sampler ddim,euler,dpm++_2m --stress lms --out FOLDER
    python tools/race.py FOLDER nbs/tutorials/race

The tables are packed by gzip, without the names of the images. `read_race` reads the packed folder, makes the decisions
of the race again, and refuses rows from which they do not follow. The first command may be broken off: typed again, it
goes on. `--budget .1` is a tenth of the prompts."""
import argparse, csv, gzip, io, shutil
from pathlib import Path
from cf_guidance.evaluation import race_text, read_race

ASIS = 'race.json', 'calibration.jsonl', 'verdicts.json', 'verdicts.csv'

def packed(path):
    "A table without its last column where that is the image, packed; the same bytes for the same rows"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding='utf-8'), newline='')))
    f = io.StringIO()
    out = csv.DictWriter(f, [*rows[0]], lineterminator='\n')
    out.writeheader()
    out.writerows({k: '' if k == 'image' else v for k, v in r.items()} for r in rows)
    return gzip.compress(f.getvalue().encode(), mtime=0)

def pack(folder, to):
    "Write the packed log of a race, and read it again"
    tables = [p for p in sorted(folder.glob('*.csv')) if p.name not in ASIS]
    to.mkdir(parents=True)
    for name in ASIS: shutil.copyfile(folder/name, to/name)
    for p in tables: (to/f'{p.name}.gz').write_bytes(packed(p))
    return read_race(to)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, help='folder of a race that is at its end')
    p.add_argument('to', type=Path, help='a new folder for the packed log')
    a = p.parse_args()
    read_race(a.folder)
    print(race_text(pack(a.folder, a.to)))
    print(f'\n{sum(f.stat().st_size for f in a.to.iterdir()):,} bytes in {a.to}')

if __name__ == '__main__': main()
