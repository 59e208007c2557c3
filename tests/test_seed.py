"The seed's own lines run against the package: only the model's name and the prompt are others"
import matplotlib
matplotlib.use('Agg')

def test_seed_lines(every):
    # helpers to create cosine schedules
    from cf_guidance.schedules  import get_cos_sched

    # normalizations for classifier-free guidance
    from cf_guidance.transforms import GuidanceTfm, BaseNormGuidance, TNormGuidance
    from fastcore.all import L
    import torch
    from cf_guidance.pieces import get_sd_pieces
    from cf_guidance.plots import plot_schedules
    from cf_guidance.sweeps import cos_harness, run

    model_name = 'shapes'
    # load the individual diffusion pieces
    pieces = get_sd_pieces(model_name, dtype=torch.float32)
    (tokenizer, text_encoder, vae, unet, scheduler) = pieces
    prompt = 'a shiny red star'
    # Default schedule parameters from the blog post
    max_val           = 7.5   # guidance scaling value
    min_val           = 1     # minimum guidance scaling
    num_steps         = 50    # number of diffusion steps
    num_warmup_steps  = 0     # number of warmup steps
    warmup_init_val   = 0     # the intial warmup value
    num_cycles        = 0.5   # number of cosine cycles
    k_decay           = 1     # k-decay for cosine curve scaling
    DEFAULT_COS_PARAMS = {
        'max_val':           max_val,
        'num_steps':         num_steps,
        'min_val':           min_val,
        'num_cycles':        num_cycles,
        'k_decay':           k_decay,
        'num_warmup_steps':  num_warmup_steps,
        'warmup_init_val':   warmup_init_val,
    }
    # create the baseline Classifier-free Guidance
    baseline_run = {
        'max_val': [7.5],
    }
    # parameters we are sweeping
    baselines_names = sorted(list(baseline_run))
    baseline_scheds = L()
    # step through each parameter
    for idx,name in enumerate(baselines_names):
        # step through each of its values
        for idj,val in enumerate(baseline_run[name]):
            # create the baseline experimeent
            expt = {
                'param_name': name,
                'val': val,
                'schedule': [val for _ in range(num_steps)]
            }
            # for plotting
            expt['title'] = f'Param: "{name}", val={val}'
            # add to the running list of experiments
            baseline_scheds.append(expt)
    basline_res = run(prompt, baseline_scheds, guide_tfm=GuidanceTfm, show_each=True)
    # plot cosine schedules with different number of warmup steps
    warmup_steps = (0, 5, 10)
    warm_g = L(
        {'sched': cos_harness({'num_warmup_steps': w}),
         'title': f'Warmup Steps: {w}'}
        for w in warmup_steps
    )
    plot_schedules(warm_g.itemgot('sched'), rows=1, titles=warm_g.itemgot('title'))
    cos_param_sweep = {
        'num_warmup_steps': [5, 10, 15],
        'num_cycles':       [1, 1.5],
        'k_decay':          [0.8, 0.6],
        'max_val':          [10],
        'min_val':          [3],
    }
    param_names = sorted(list(cos_param_sweep))
    cos_scheds = L()
    for idx,name in enumerate(param_names):
        for idj,val in enumerate(cos_param_sweep[name]):
            # create the cosine experimeent
            expt = {
                'param_name': name,
                'val': val,
                'schedule': cos_harness({name: val})
            }
            # for plotting
            expt['title'] = f'Param: "{name}", val={val}'
            cos_scheds.append(expt)
    plot_schedules(cos_scheds.itemgot('schedule'), rows=3, titles=cos_scheds.itemgot('title'))
    cos_res = run(prompt, cos_scheds, guide_tfm=GuidanceTfm, show_each=False, test_run=not every)

    assert len(basline_res['images']) == 1 and len(cos_scheds) == 9
    assert cos_res['titles'] == list(cos_scheds.itemgot('title'))[:None if every else 1]
    assert cos_scheds[0]['schedule'] == get_cos_sched(**{**DEFAULT_COS_PARAMS, 'k_decay': .8})
    images = [im.tobytes() for im in basline_res['images'] + cos_res['images']]
    assert len(set(images)) == len(images)

def test_seed_loop():
    "The seed's own `generate`, with plain `int` steps and lists, on the built-in pieces"
    import torch
    from cf_guidance.pieces import get_sd_pieces
    from cf_guidance.sampling import generate
    from cf_guidance.schedules import get_cos_sched
    from cf_guidance.transforms import GuidanceTfm, TNormGuidance
    pieces = get_sd_pieces('shapes', device='cpu')
    tokenizer, text_encoder, vae, unet, scheduler = pieces
    for tfm in (GuidanceTfm({'g': get_cos_sched(20)}), TNormGuidance({'g': [.15]*20})):
        inp = tokenizer(['', 'a shiny red star'], padding='max_length', max_length=tokenizer.model_max_length,
                        truncation=True, return_tensors='pt')
        emb = text_encoder(inp.input_ids)[0]
        scheduler.set_timesteps(20)
        latents = torch.randn(
            (1, unet.config.in_channels, 8, 8), generator=torch.Generator().manual_seed(3))*scheduler.init_noise_sigma
        for i, ts in enumerate(scheduler.timesteps):
            with torch.no_grad():
                u, t = unet(scheduler.scale_model_input(torch.cat([latents]*2), ts), ts,
                            encoder_hidden_states=emb).sample.chunk(2)
            latents = scheduler.step(tfm(u, t, idx=i), ts, latents).prev_sample
        assert torch.isfinite(latents).all()
        # plain guidance acts alike in every space, so our loop gives the same
        if type(tfm) is GuidanceTfm:
            seen = []
            generate('a shiny red star', tfm, pieces, seed=3, steps=20, progress=False,
                     callback=lambda step, x: seen.append(x) or False)
            assert torch.allclose(seen[-1], latents, atol=1e-3)
