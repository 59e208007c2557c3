"""Search a schedule for the weaker built-in model, and write the rows that the page `own_schedule` reads:

    python tools/search.py FOLDER nbs/tutorials/search.json

Broken off and typed again, it goes on. Typed twice at once, with another `--rng`, two workers share the trials. This
command does the same, with each prompt on a line of a file:

    cfg_search --space 'spline knots=5' --model scenes-weak --prompts choose.txt --held-out report.txt --seed 1-2 \\
        --sampler dpm++_2m --trials 100 --first 8 --other-sampler ddim --other-model scenes --device cpu --out FOLDER"""
import argparse, json
from pathlib import Path
from cf_guidance.evaluation import found_text, search
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.worlds import scene_prompts

def found_in(folder, rng):
    "Go on with the search in a folder"
    choose, report = [[p.text for p in scene_prompts(part)] for part in ('dev', 'test')]
    strong, weak = [get_sd_pieces(name, device='cpu') for name in ('scenes', 'scenes-weak')]
    return search('spline knots=5', 'verifier', choose[::2], 'dpm++_2m', pipe=weak, held_out=report, seeds=[1, 2],
                  steps=20, trials=100, first=8, rng=rng, other_sampler='ddim', other_model=strong, folder=folder)

def scores_of(report, name):
    "The score of each held-out prompt and noise, by method"
    return {method: [[p.prompt, p.axes['seed'], p.scores[name]] for _, ps in sorted(held.items(), key=repr) for p in ps]
            for method, held in report.found.methods.items()}

def rows_of(found):
    "What a page needs to compute its figures"
    trials = [dict(number=r.number, state=r.state, params=r.params, value=r.values[0] if r.values else None)
              for r in found.trials]
    return dict(score=found.score.name, counts=found.counts, trials=trials, winner=found.arm.name,
                values=found.arm.schedule.values(20), constants=found.constants, constant=found.constant.name,
                reports={place: scores_of(res, found.score.name) for place, res in found.reports.items()})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, help='folder of the search, which need not be there')
    p.add_argument('to', type=Path, help='the JSON file')
    p.add_argument('--rng', type=int, default=0, help='seed of the proposals, another one for each worker')
    a = p.parse_args()
    found = found_in(a.folder, a.rng)
    a.to.write_text(json.dumps(rows_of(found)) + '\n')
    print(found_text(found))

if __name__ == '__main__': main()
