"""What wants a GPU, in ten minutes: half precision, offload, compilation, real Stable Diffusion and SDXL, sweeps

    python tools/gpu_check.py --dry                 on the CPU with the built-in model: this tries the script, not a GPU
    python tools/gpu_check.py                       on the GPU with the built-in model; nothing is fetched
    python tools/gpu_check.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --out gpu.json
    python tools/gpu_check.py --model sd15/ --sdxl stabilityai/stable-diffusion-xl-base-1.0 --only pipeline sdxl swept

`--model` and `--sdxl` take a hub name, whose size is said before it is fetched, or a folder. The sweeps of SDXL take a
random one of a few layers where `--sdxl` names none; of one that is named they keep a copy in bfloat16 for as long as
they run. A line for each figure: what it is, how much it may be, and whether it passed. Exit status 1 if one failed,
2 if there is no such device."""
import argparse, gc, importlib.metadata, importlib.util, json, os, platform, sys, tempfile, time, warnings
from functools import cached_property
from pathlib import Path
import diffusers, huggingface_hub, numpy as np, torch, transformers
import cf_guidance
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from cf_guidance.adapters import guided, load_pipeline, pipeline_fingerprint
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.pieces import BUILT_IN, MODELS, Pieces, get_scheduler, get_sd_pieces, images_from_latents
from cf_guidance.records import read_recipe, recipe, rerun, save_image
from cf_guidance.sampling import generate, sample_latents
from cf_guidance.schedules import Step, constant
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import GuidanceTfm

SEED, STEPS, G, HALF = 3, 10, 7.5, torch.float16
CONE, HORSE = 'a red cone', 'a photograph of an astronaut riding a horse'
PARTS, CHECKS = ('text_encoder', 'text_encoder_2', 'unet', 'vae'), {}
OWN = "constant g, latents that differ from the pipeline's own"

class Skip(Exception): "A check that cannot be made here, and why"
def check(f): CHECKS[f.__name__] = f; return f
def cfg(g=G): return GuidanceTfm({'g': g})
def window(): return cfg(constant(G).then(1, at=.4))
def differ(x, y): return int((torch.as_tensor(x) != torch.as_tensor(y)).sum())      # NaN counts

def variant_of(name):
    "Which variant of a model is in half precision; says what is fetched, and how big it is"
    if (folder := Path(name).expanduser()).is_dir():
        return 'fp16' if any(folder.glob('unet/*.fp16*.safetensors')) else None
    cache = huggingface_hub.constants.HF_HUB_CACHE
    try: files = huggingface_hub.HfApi().model_info(name, files_metadata=True).siblings
    except Exception as e:
        return print(f'{name}: the hub does not tell ({type(e).__name__}); what {cache} has of it is used') or 'fp16'
    size = {
        f.rfilename: f.size or 0
        for f in files
        if f.rfilename.split('/')[0] in PARTS and f.rfilename.endswith('.safetensors') and 'non_ema' not in f.rfilename
    }
    half = [k for k in size if '.fp16' in k]
    print(
        f'{name}: {sum(size[k] for k in half or size)/1e9:.1f} GB of weights go to {cache}, less what is there already',
        flush=True)
    return 'fp16' if half else None

def ready(pipe):
    "A quiet pipeline with the sampler of all checks"
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = get_scheduler('ddim', pipe.scheduler.config)
    return pipe

def loaded(cls, name, dtype=HALF, **kwargs):
    return ready(cls.from_pretrained(os.path.expanduser(name), dtype=dtype, use_safetensors=True, **kwargs))

def pieces_of(pipe, name):
    "The parts of a pipeline, for our own loop"
    pieces = Pieces(pipe.tokenizer, pipe.text_encoder, pipe.vae, pipe.unet, pipe.scheduler)
    pieces.name = name
    return pieces

def tiny_xl(dtype=HALF):
    "A random SDXL of a few layers"
    torch.manual_seed(SEED)
    own = get_sd_pieces(dtype=dtype, device='cpu')
    conf, c = {**own.text_encoder.config.to_dict(), 'projection_dim': 16}, own.vae.config.latent_channels
    unet = diffusers.UNet2DConditionModel(sample_size=8, in_channels=c, out_channels=c, layers_per_block=1,
                                          block_out_channels=(32, 64),
                                          down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
                                          up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'), norm_num_groups=8,
                                          cross_attention_dim=2*conf['hidden_size'], addition_embed_type='text_time',
                                          addition_time_embed_dim=8, projection_class_embeddings_input_dim=6*8 + 16)
    text = transformers.CLIPTextModelWithProjection(type(own.text_encoder.config)(**conf))
    return ready(
        StableDiffusionXLPipeline(own.vae, own.text_encoder, text.to(dtype), own.tokenizer, own.tokenizer,
                                  unet.to(dtype), own.scheduler, add_watermarker=False))

class Bench:
    "The models, and a row for each figure"
    def __init__(self, args):
        self.args, self.device, self.rows, self.check = args, torch.device('cpu' if args.dry else args.device), [], None
        self.real = bool(args.model) and not args.dry
        # `near`: what rounding may do to pixels
        self.name, self.prompt, self.near = (args.model, HORSE, 3) if self.real else (str(MODELS/BUILT_IN), CONE, .5)
    cuda = property(lambda self: self.device.type == 'cuda')
    variant = cached_property(lambda self: variant_of(self.name) if self.real else None)
    pipe = cached_property(lambda self: self.load().to(self.device))
    pieces = cached_property(lambda self: pieces_of(self.pipe, self.name))
    small = cached_property(lambda self: self.load(str(MODELS/BUILT_IN), None).to(self.device)
                            if self.real else self.pipe)
    @cached_property
    def xl(self):
        "A folder of SDXL in bfloat16: the one that is named, or a random one"
        wide, self.kept = torch.bfloat16, tempfile.TemporaryDirectory()
        pipe = loaded(StableDiffusionXLPipeline, self.args.sdxl, wide, variant=variant_of(self.args.sdxl),
                      add_watermarker=False) if self.real_xl else tiny_xl(wide)
        pipe.save_pretrained(self.kept.name)
        return self.kept.name
    real_xl = property(lambda self: bool(self.args.sdxl) and not self.args.dry)
    def load_xl(self, **how):
        "A fresh SDXL in bfloat16, as `load_pipeline` loads it"
        return load_pipeline(self.xl, 'bfloat16', str(self.device), **how)
    def load(self, *given):
        "A fresh Stable Diffusion, on the CPU"
        name, variant = given or (self.name, self.variant)
        return loaded(StableDiffusionPipeline, name, variant=variant, safety_checker=None, feature_extractor=None,
                      requires_safety_checker=False)
    def draw(self, pipe, pixels=False, scale=G, prompt=None):
        "Latents of one image, or its pixels, 0 to 255"
        conf, gen = pipe.unet.config, lambda: torch.Generator().manual_seed(SEED)
        x = torch.randn((1, conf.in_channels, conf.sample_size, conf.sample_size), generator=gen()).to(HALF)
        res = pipe(prompt or self.prompt, num_inference_steps=STEPS, guidance_scale=scale, latents=x, generator=gen(),
                   output_type='np' if pixels else 'latent').images
        return (res*255).round() if pixels else res.cpu()
    def far(self, x, y, pipe=None):
        "Mean difference of two images in 1/255, from latents or pixels"
        x, y = [
            images_from_latents(v.to(self.device),
                                (pipe or self.pipe).vae) if isinstance(v, torch.Tensor) else np.asarray(v)
            for v in (x, y)
        ]
        return float(abs(x.astype(float) - y.astype(float)).mean())
    def row(self, name, measured, most=None, note=''):
        "Keep and print a figure; without `most` it is only said, and NaN does not pass"
        passed = None if most is None else bool(measured <= most)
        self.rows.append(dict(check=self.check, name=name, passed=passed, measured=measured, tolerance=most, note=note))
        said = [name + ':'] + ([] if measured is None else [f'{measured:.4g}']) + (
            [] if most is None else [f'(at most {most:g})']) + ([note] if note else [])
        print(f'{ {True: "pass", False: "FAIL", None: "    "}[passed]}  {self.check:10}', *said, flush=True)

    def run(self, name):
        "One check, whatever comes of it"
        self.check, begin = name, time.perf_counter()
        try: CHECKS[name](self)
        except Skip as e: self.row('skipped', None, None, str(e))
        except Exception as e:
            short = isinstance(e, torch.OutOfMemoryError) or 'out of memory' in str(e)
            self.row(
                'out of memory' if short else 'ended early', 1, 0,
                f'close what else uses the GPU, or run this alone: --only {name}'
                if short else f"{type(e).__name__}: {' '.join(str(e).split())}")
        gc.collect()
        if self.cuda: torch.cuda.empty_cache()
        self.row('seconds', time.perf_counter() - begin)

@check
def precision(b):
    "The built-in model: float32 on the GPU against the CPU, and half precision against that"
    def draw(dtype, device):
        pieces = get_sd_pieces(dtype=dtype, device=device, scheduler='ddim')
        return sample_latents(CONE, cfg(5.), pieces, seeds=[1, 2], steps=STEPS, progress=False).float().cpu()
    want = draw(torch.float32, 'cpu')
    b.row('float32, largest difference of latents from the CPU',
          (draw(torch.float32, b.device) - want).abs().max().item(), 2e-4)
    for dtype in (HALF, torch.bfloat16):
        got, name = draw(dtype, b.device), str(dtype)[6:]
        b.row(f'{name}, latents that are not finite', int((~torch.isfinite(got)).sum()), 0)
        b.row(f'{name}, mean difference of pixels from float32, of 255', b.far(got.to(HALF), want.to(HALF), b.small),
              .5)

@check
def pipeline(b):
    "A stock pipeline in float16: its own guidance to the bit, and passes left out"
    own, tfm, count = b.draw(b.pipe), window(), sum(len(window().needs(Step(k, STEPS))) for k in range(STEPS))
    with guided(b.pipe, cfg()): b.row(OWN, differ(b.draw(b.pipe, scale=3.), own), 0)
    def timed(tfm):
        with guided(b.pipe, tfm) as host:
            b.draw(b.pipe)
            begin = time.perf_counter()
            return b.draw(b.pipe), host.made, time.perf_counter() - begin
    (full, _, slow), (got, made, fast) = timed(lambda u, t, idx: tfm(u, t, idx=idx)), timed(tfm)
    b.row('guidance in 4 steps of 10, rows of the network besides those counted', abs(made - 2*count), 0,
          f'{made//2} of {2*STEPS} made')
    b.row('the same, mean difference of pixels from full passes, of 255', b.far(got, full), b.near)
    b.row('the same, its time by that of full passes', fast/slow)
    b.row('after the blocks, latents that differ from the pipeline\'s own', differ(b.draw(b.pipe), own), 0)

@check
def transforms(b):
    "Every transform with the built-in model in float16: in our loop, and in the pipeline"
    pieces, bad, far, conf = pieces_of(b.small, BUILT_IN), [], {}, b.small.unet.config
    for name in TRANSFORMS:
        try:
            x = sample_latents(CONE, guidance(name), pieces, seeds=[SEED], steps=STEPS, progress=False)
            if x.dtype != HALF or x.shape != (1, conf.in_channels, conf.sample_size,
                                              conf.sample_size) or not torch.isfinite(x).all():
                bad.append(name)
            with guided(b.small, guidance(name)): far[name] = b.far(b.draw(b.small, prompt=CONE), x, b.small)
        except Exception as e: b.row(f'{name}, errors', 1, 0, f'{type(e).__name__}: {e}')
    b.row(f'of {len(TRANSFORMS)}, those that are not finite, or of another shape or precision', len(bad), 0,
          ' '.join(bad))
    worst = sorted(far, key=far.get)[-3:]
    b.row('in the pipeline, largest mean difference of pixels from our loop, of 255', max(far.values(), default=0.), 1,
          ', '.join(f'{k} {far[k]:.2g}' for k in reversed(worst)))

@check
def offload(b):
    "Pipelines that keep their weights on the CPU; accelerate wants another device than that for the sequential kind"
    if importlib.util.find_spec('accelerate') is None: raise Skip('accelerate is not installed: pip install accelerate')
    def twice(pipe, tfm):
        with guided(pipe, tfm): return [b.draw(pipe, pixels=True) for _ in range(2)]
    for kind in ('model',) if b.device.type == 'cpu' else ('model', 'sequential'):
        pipe = b.load()
        getattr(pipe, f'enable_{kind}_cpu_offload')(device=b.device)
        own = b.draw(pipe, pixels=True)
        for name, tfm in (('guidance in 4 steps of 10', window()), ('compose, which reads texts', guidance('compose'))):
            far = max(b.far(x, y) for x, y in zip(twice(b.pipe, tfm), twice(pipe, tfm)))
            b.row(f'{kind} offload, {name}, twice in one block, mean difference of pixels from none, of 255', far,
                  b.near)
        b.row(f"{kind} offload, after the blocks, pixels that differ from the pipeline's own",
              differ(b.draw(pipe, pixels=True), own), 0)

@check
def compiled(b):
    "A network that went through torch.compile"
    if b.args.no_compile: raise Skip('--no-compile')
    with guided(b.pipe, window()): eager = b.draw(b.pipe)
    pipe = b.load().to(b.device)
    pipe.unet = torch.compile(pipe.unet)
    own = b.draw(pipe)
    with guided(pipe, cfg()): b.row(OWN, differ(b.draw(pipe, scale=3.), own), 0)
    with guided(pipe, window()) as host: got = b.draw(pipe)
    b.row('guidance in 4 steps of 10, mean difference of pixels from what is not compiled, of 255', b.far(got, eager),
          b.near, f'{host.made} of {2*STEPS} rows made')

@check
def sweep(b):
    "The loop that shares: three schedules by two seeds in float16"
    if b.cuda: torch.cuda.reset_peak_memory_stats(b.device)
    with tempfile.TemporaryDirectory() as folder:
        s = Sweep(prompt=b.prompt, schedule=[G, constant(G).then(1, at=.4),
                                             constant(1).then(G, at=.2)], seed=[1, 2], sampler='ddim', steps=STEPS,
                  size=512 if b.real else None)
        s.run(folder, b.pieces, progress=False)
        lost, flat = [c for c in s.cells
                      if not c.made], [c for c in s.cells if c.made and np.asarray(c.image).std() < 5]
        there = sum((Path(folder)/json.loads(line)['file_name']).is_file()
                    for line in (Path(folder)/'metadata.jsonl').read_text().splitlines())
    b.row('images that were not made', len(lost), 0, '; '.join({str(c.failed) for c in lost}))
    b.row('black or flat images', len(flat), 0)
    b.row('images that metadata.jsonl lacks',
          len(s.cells) - there, 0, f'{s.made} network calls made, {s.saved} saved')
    if b.cuda:
        b.row('peak of memory, GB', torch.cuda.max_memory_allocated(b.device)/1e9, None, 'with all that is loaded')

@check
def generated(b):
    "`generate` against diffusers' own pipeline, from the same noise"
    image = generate(b.prompt, cfg(), b.pieces, seed=SEED, steps=STEPS, sampler='ddim', progress=False)
    b.row('mean difference of pixels, of 255', b.far(np.asarray(image)[None], b.draw(b.pipe, pixels=True)), b.near)

@check
def sdxl(b):
    "SDXL in float16: its own guidance to the bit"
    if not b.args.dry and not b.args.sdxl:
        raise Skip('give its name or folder: --sdxl stabilityai/stable-diffusion-xl-base-1.0')
    pipe = tiny_xl() if b.args.dry else loaded(StableDiffusionXLPipeline, b.args.sdxl, variant=variant_of(b.args.sdxl),
                                               add_watermarker=False).to(b.device)
    own = b.draw(pipe)
    with guided(pipe, cfg()): b.row(OWN, differ(b.draw(pipe, scale=3.), own), 0)

def sweep_xl(b, pipe):
    "Sweep SDXL with three schedules by two transforms, and each alone; gives the pixels"
    def made(**axes):
        begin = time.perf_counter()
        s = Sweep(pipe, prompt=HORSE if b.real_xl else CONE, seed=SEED, steps=STEPS, **axes)
        s.run(progress=False, exact=True)
        if lost := {str(c.failed) for c in s.cells if not c.made}: raise RuntimeError('; '.join(lost))
        return s, time.perf_counter() - begin
    made(schedule=G)                                  # warms up
    s, fast = made(schedule=[G, constant(G).then(1, at=.4), constant(1).then(G, at=.2)], transform=['cfg', 'apg'])
    lone = [made(**{k: s.values[k][p[k]] for k in ('schedule', 'transform')}) for p in s.places]
    shown, alone = [np.stack([np.asarray(c.image) for c in cells])
                    for cells in (s.cells, [one.cells[0] for one, _ in lone])]
    b.row('shared images, pixels that differ from those made alone', differ(shown, alone), 0,
          f'{s.made} network calls made, {s.saved} saved')
    b.row('the same, its time by that of each alone', fast/sum(took for _, took in lone))
    b.row('black or flat images', sum(x.std() < 5 for x in shown), 0)
    return shown

@check
def swept(b):
    "SDXL in bfloat16: a sweep of the pipeline, and an image that is made again from its PNG"
    if b.cuda: torch.cuda.reset_peak_memory_stats(b.device)
    pipe = b.load_xl()
    b.shown = sweep_xl(b, pipe)
    if b.cuda:
        b.row('peak of memory, GB', torch.cuda.max_memory_allocated(b.device)/1e9, None, 'with all that is loaded')
    with tempfile.TemporaryDirectory() as folder:
        call = {'original_size': (512, 512)}
        cell = Sweep(pipe, prompt=CONE, schedule=G, steps=2, seed=SEED, call=call).run(folder, progress=False).cells[0]
        again = rerun(cell.file, pipe, progress=False)
        b.row('pixels that differ when it is made again', differ(np.asarray(again), np.asarray(cell.image)), 0)

def beside(b, shown, most=None):
    "How far images are from those of the check `swept`"
    if getattr(b, 'shown', None) is None: return
    b.row('mean difference of pixels from the sweep without, of 255',
          float(abs(shown.astype(float) - b.shown.astype(float)).mean()), most)

@check
def swept_offload(b):
    "The same sweep with parts that wait on the CPU"
    if importlib.util.find_spec('accelerate') is None: raise Skip('accelerate is not installed: pip install accelerate')
    beside(b, sweep_xl(b, b.load_xl(offload='model')), b.near)

@check
def swept_compiled(b):
    "The same sweep with a network that went through torch.compile"
    if b.args.no_compile: raise Skip('--no-compile')
    beside(b, sweep_xl(b, b.load_xl(compile=True)))

def random_lora(pipe, folder):
    "Save a LoRA of random numbers for the U-Net of a pipeline"
    from peft import LoraConfig, get_peft_model_state_dict
    pipe.unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=['to_q', 'to_v']))
    layers = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    type(pipe).save_lora_weights(folder, unet_lora_layers=layers)

@check
def swept_lora(b):
    "The same sweep with a LoRA of random numbers, which makes another model at each weight"
    if importlib.util.find_spec('peft') is None: raise Skip('peft is not installed: pip install peft')
    with tempfile.TemporaryDirectory() as folder:
        random_lora(b.load_xl(), folder)
        marks, pipe = [pipeline_fingerprint(b.load_xl())], b.load_xl(lora=[f'{folder}:.5'])
        shown = sweep_xl(b, pipe)
        marks.append(pipeline_fingerprint(pipe))
        pipe.set_adapters(['lora_0'], [1.])
        marks.append(pipeline_fingerprint(pipe))
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        marks.append(pipeline_fingerprint(pipe))
    b.row('models of one fingerprint: plain, half, whole, fused', 4 - len({*marks}), 0)
    beside(b, shown)

@check
def record(b):
    "What a run notes, and an image that is made again from the recipe inside it"
    with guided(b.pipe, cfg(), record=True) as host: b.draw(b.pipe)
    rows, tfm = host.record.rows, cfg(constant(G).then(1, at=.4))
    b.row('calls that the record lacks', STEPS - len(rows), 0, '; '.join(host.record.said()))
    b.row('largest difference of the effective scale from what was asked', max(abs(r['g_effective'] - G) for r in rows),
          .05)
    how = dict(seed=SEED, steps=STEPS, sampler='ddim')
    image, r = generate(b.prompt, tfm, b.pieces, progress=False, **how), recipe(b.prompt, tfm, b.pieces, **how)
    with tempfile.TemporaryDirectory() as folder:
        path = save_image(image, r, folder)
        b.row('entries of the recipe that are read back otherwise',
              sum(read_recipe(path).get(k) != v for k, v in r.items()), 0)
        b.row('pixels that differ when it is made again',
              differ(np.asarray(rerun(path, b.pieces, progress=False)), np.asarray(image)), 0)

def about(b):
    "Versions, and the device"
    got, gpu = {
        k: importlib.metadata.version(k)
        for k in ('torch', 'diffusers', 'transformers', 'accelerate')
        if importlib.util.find_spec(k)
    }, torch.cuda.get_device_properties(b.device) if b.cuda else None
    return dict(
        device=
        f'{gpu.name}, {gpu.total_memory/1e9:.0f} GB, {"CUDA" if torch.version.cuda else "ROCm"} '
        f'{torch.version.cuda or torch.version.hip}'
        if gpu else str(b.device), python=platform.python_version(), cf_guidance=cf_guidance.__version__, **got)

def options():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--model', help='Stable Diffusion: a hub name or a folder; the built-in model by default')
    ap.add_argument('--sdxl', help='SDXL: a hub name or a folder; left out by default')
    ap.add_argument('--device', default='cuda')
    ap.add_argument('--dry', action='store_true', help='the CPU and the built-in model')
    ap.add_argument('--no-compile', action='store_true')
    ap.add_argument('--only', nargs='+', choices=CHECKS, metavar='NAME', help=' '.join(CHECKS))
    ap.add_argument('--out', type=Path, help='JSON of all that is printed')
    return ap.parse_args()

def main():
    b = Bench(options())
    try: torch.zeros(1, device=b.device)
    except (RuntimeError, AssertionError) as e:
        sys.exit(
            print(f'--device {b.device} is not there ({str(e).splitlines()[0]}); --dry tries the script on the CPU')
            or 2)
    warnings.simplefilter('ignore')
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False      # float32 is float32
    said = {**about(b), 'model': b.name if b.real else f'{BUILT_IN} (built in)', 'dry': b.args.dry}
    print(*(f'{k}: {v}' for k, v in said.items()), sep='\n')
    if not b.real: print('No real Stable Diffusion is checked' + ('.' if b.args.dry else ': name one with --model.'))
    for name in b.args.only or CHECKS: b.run(name)
    passed, failed = [[r['check'] for r in b.rows if r['passed'] is v] for v in (True, False)]
    print(
        f"{len(passed)} passed, {len(failed)} failed{' (' + ', '.join(dict.fromkeys(failed)) + ')' if failed else ''}, "
        f"{sum(r['name'] == 'skipped' for r in b.rows)} checks skipped, "
        f"{sum(r['measured'] for r in b.rows if r['name'] == 'seconds'):.0f} s"
    )
    if b.args.out:
        b.args.out.write_text(
            json.dumps(
                dict(
                    about=said, rows=[{**r, 'measured': None if r['measured'] != r['measured'] else r['measured']}
                                      for r in b.rows]), indent=1) + '\n')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
