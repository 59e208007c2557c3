"The defaults and presets beside what their sources publish, and recipes that were written before a default changed"
import numpy as np, pytest
from PIL import Image
from cf_guidance.transforms import feedback_presets, TRANSFORMS, guidance, apg_presets
from cf_guidance.records import image_id, recipe, rerun, save_image
from cf_guidance.sampling import built_in, generate
from cf_guidance.schedules import constant
from cf_guidance.transforms import parameters, tsg_presets
from cf_guidance.schedules import INTERVALS

# What a source publishes, with what it calls it. A rule whose source names no number of its own is not here.
PUBLISHED = {
    'magnitude_aware': (dict(g=10., alpha=8.), "diffusers' MagnitudeAwareGuidance: guidance_scale, alpha"),
    'adaptive_guidance': (dict(threshold=.991,
                               space='epsilon'), 'arXiv 2312.12487: the threshold of its 20 steps, on noises'),
    'feedback': (dict(g=10., pi=.95, t0=.5, t1=.4), "FBG_using_edm2's sampler: max_guidance, pi, t_0, t_1"),
    'rescale': (dict(phi=.7, space='v_prediction'), 'arXiv 2305.08891: phi'),
    'renorm': (dict(k=1.), 'ComfyUI RenormCFG: renorm_cfg'), 'cfg_norm': (dict(factor=1.), 'ComfyUI CFGNorm: strength'),
    'tsr': (dict(k=.95, sigma=1.), 'ComfyUI TemporalScoreRescaling: tsr_k, tsr_sigma'), 'power_law': (dict(
        alpha=.9, units='score',
        measure='norm'), 'arXiv 2502.07849: alpha, and lengths of scores'), 'beta_norm': (dict(gamma=1.),
                                                                                          "beta-CFG's README: gamma"),
    'cads': (dict(tau1=.6, tau2=.9, s=.25, psi=1.), 'arXiv 2310.17347, Stable Diffusion: tau1, tau2, s, psi'),
    'nag': (dict(scale=3., tau=2.5, alpha=.5),
            'NAG, README for SDXL, and NAGAttnProcessor2_0: nag_scale, nag_tau, nag_alpha'),
    'frame_linear': (dict(g=3., first=1.), 'StableVideoDiffusionPipeline: max_guidance_scale, min_guidance_scale'),
    'fdg': (dict(g=10., g_low=5., levels=2), "diffusers' FrequencyDecoupledGuidance: guidance_scales"), 'fresca': (dict(
        low=1., high=1.25, cutoff=20/64), 'ComfyUI FreSca: scale_low, scale_high, freq_cutoff 20 of 64'), 'smc': (dict(
            lam=5., k=.2), "CFG-Ctrl's README: lambda, K"), 'apg_mix': (dict(g=3.5, late=10., start=5, eta=0., r=10.,
                                                                             beta=-.5),
                                                                        "diffusers' AdaptiveProjectedMixGuidance"),
    'cfg_zero': (dict(zero_steps=1, count='diffusers'), "diffusers' ClassifierFreeZeroStarGuidance: zero_init_steps"),
    'dynamic_threshold': (dict(ratio=.995, limit=1.), 'arXiv 2205.11487: the percentile'), 'mimic': (dict(
        mimic=7., percentile=1., phi=1., separate_channels=True, startpoint='MEAN',
        variability='AD'), 'sd-dynamic-thresholding'), 'reinhard': (dict(multiplier=1., deviations=3.),
                                                                    'ComfyUI_experiments ModelSamplerTonemapNoiseTest'),
    'skimmed': (dict(skim=7., form='skimmed',
                     full_negative=False), 'Skimmed_CFG: Skimming_CFG, the node since 2024-10-25'),
    'adg': (dict(angle=1.0472), 'arXiv 2506.11039: pi/3'), 'autoguidance': (dict(g=2.1),
                                                                            'arXiv 2406.02507: the best FID of EDM2-S'),
    'pag': (dict(s=3., layers='mid'), "diffusers' pipelines: pag_scale, pag_applied_layers"), 'seg': (dict(
        s=3., layers='mid', blur=9999999.,
        threshold=9999.), 'SEG-SDXL: seg_scale, seg_applied_layers, seg_blur_sigma, inf_blur_threshold'),
    'slg': (dict(s=2.8), "diffusers' StableDiffusion3Pipeline: skip_layer_guidance_scale"), 'icg': (dict(
        g=3., draw='text'), 'arXiv 2407.02687, Stable Diffusion: random text, 3.0'), 'tsg': (dict(
            g=2.5, scale=2., power=1.,
            first=0), 'arXiv 2407.02687, DiT-XL/2, conditional: w, s, alpha'), 'perp_neg': (dict(
                beta=1.), 'ComfyUI PerpNeg: neg_scale'), 'epsilon_scaling': (dict(factor=1.005),
                                                                             'ComfyUI Epsilon Scaling: scaling_factor'),
    'momentum': (dict(alpha=.5, beta=.6), "sd-perturbed-attention's node: momentum, ema"),
    'higs': (dict(w=1.75, alpha=.75, cutoff=.05, steep=50., t_min=.4, t_max=1.), 'arXiv 2509.22300, second-hand'),
    'pmc': (dict(cap=1.05), 'arXiv 2609.24287, second-hand'),
    'vags': (dict(kappa=1.), 'arXiv 2605.15661, second-hand'),
    'adamag': (dict(beta=.1, gamma=4., least=1.), 'arXiv 2605.20079, second-hand'),
    'samg': (dict(g=12., low=5.), 'arXiv 2604.26503, second-hand: Stable Diffusion 1.5 and SDXL'),
    'zeresfdg': (dict(low=.6, high=1.3, phi=.7, beta=.8, enter=.6, leave=.45),
                 'arXiv 2510.12954, and MagicNodes: fdg_low, fdg_high, ze_r_switch_hi, ze_r_switch_lo'),
    'lf_cfg': (dict(rho=.5, shrink=8), 'arXiv 2506.21452, second-hand'),
    'contrastive': (dict(g=7.5, g_away=7.5, tau=.2, plain=False), 'ContrastiveCFG: cfg_guidance, tau'),
    'sld': (dict(s=1000., threshold=.01, momentum=.3, beta=.4, warmup=10), "diffusers' SafetyConfig.MEDIUM")
}

def test_defaults_are_the_published_ones():
    for name, (want, source) in PUBLISHED.items():
        known = {k: p.default for k, p in parameters(TRANSFORMS[name]).items()}
        assert {k: known[k] for k in want} == want, (name, source)

def test_presets_are_the_published_rows():
    rows = {
        'SDXL': (15., 0., 15., -.5), 'SD 2.1': (10., 0., 7.5, -.75), 'DiT-XL/2': (4., 0., 5., -.5),
        'EDM2-S': (4., 0., 2.5, -.75)
    }
    # arXiv 2410.02416, table 10
    assert {k: (p['g'], p['eta'], p['r'], p['beta']) for k, p in apg_presets.items()} == rows
    rows = {
        'EDM2-S FID': (.28, 2.90, 2.1), 'EDM2-S FD-DINOv2': (.60, 5.00, 3.2), 'EDM2-XXL FID': (.19, 1.61, 2.0),
        'EDM2-XXL FD-DINOv2': (.60, 5.00, 2.9), 'DiT-XL/2 FID': (.34, 1.02, 2.5),
        'DiT-XL/2 FD-DINOv2': (.45, 1.23, 4.0), 'SDXL': (.28, 5.42, 16.)
    }
    # arXiv 2404.07724, table 1 and section 4.3
    assert INTERVALS == rows
    rows = {'DiT-XL/2': (2.5, 0, 1000, 2., 1.), 'DiT-XL/2, unconditional': (5., 200, 800, 1., 0.),
            'Stable Diffusion': (4., 400, 1000, 3., .25), 'Stable Diffusion, unconditional': (3., 100, 900, 1.25, 0.)}
    times = tuple(range(1000, -1, -50))
    # arXiv 2407.02687, table of the TSG experiments
    for name, (w, lo, hi, s, alpha) in rows.items():
        p = tsg_presets[name]
        g = (constant(p['g']) if isinstance(p['g'], float) else p['g']).values(len(times), timesteps=times,
                                                                               sigmas=[1.]*len(times))
        assert g == [w if lo <= ts <= hi else 1. for ts in times] and (p['scale'], p['power']) == (s, alpha), name
    # arXiv 2506.06085
    assert tsg_presets.keys() == rows.keys() and feedback_presets['Stable Diffusion'] == dict(
        g=10., pi=.85, t0=.75, t1=.5)

# Recipes as releases wrote them that had another default, or did not know a parameter yet: values, options, and the
# settings that mean the same now.
BEFORE = {
    'power_law': (dict(g=2., alpha=.9), dict(measure='norm', units='noise'), dict(g=2., units='noise')),
    'skimmed': (dict(g=9., skim=4.), dict(form='single', full_negative=False, beyond=True),
                dict(g=9., skim=4., form='single')), 'seg': (dict(g=3., s=3.,
                                                                  blur=100.), dict(layers='mid'), dict(g=3., blur=1e6)),
    'icg': (dict(g=7.5, weak_seed=0), dict(draw='tokens'), dict(g=7.5, draw='tokens')),
    'tsg': (dict(g=3., scale=2., power=1., weak_seed=0), {}, dict(g=3.)), 'reinhard': (dict(g=7.5,
                                                                                            multiplier=1.), {}, {})
}

@pytest.mark.parametrize('name', BEFORE)
def test_old_recipes_are_made_again_as_they_were(name, tmp_path):
    values, opts, now = BEFORE[name]
    pieces, prompt, n = built_in(), 'a red cone', 3
    old = {
        **recipe(prompt, guidance(name, **now), pieces, steps=n), 'values': {k: [v]*n
                                                                             for k, v in values.items()},
        'options': opts
    }
    want = np.asarray(generate(prompt, guidance(name, **now), pieces, steps=n, progress=False))
    kept = save_image(Image.fromarray(want), old, tmp_path)
    assert (np.asarray(rerun(kept, progress=False)) == want).all() and kept.stem == image_id(old)
    fresh = recipe(prompt, guidance(name), pieces, steps=n)
    # a default that changed is another image
    if name != 'reinhard': assert image_id(fresh) != image_id(old)
        # a parameter that only came later is not
    else: assert image_id(fresh) == image_id(old)

def test_every_default_is_made_again(tmp_path, every):
    "Whole numbers that nobody set are whole in a recipe, and those that a schedule gives are not; both make the image again"
    pieces = built_in()
    whole = [
        k for k, c in TRANSFORMS.items() if any(
            isinstance(p.default, int) and not isinstance(p.default, bool) for p in parameters(c).values())
    ]
    assert {'cfg_zero', 'fdg', 'tsg', 'autoguidance', 'apg_mix'} <= set(whole)
    for name in TRANSFORMS if every else whole:
        tfm = guidance(name)
        im = generate('a red cone', tfm, pieces, steps=2, progress=False)
        kept = save_image(im, recipe('a red cone', tfm, pieces, steps=2), tmp_path)
        assert (np.asarray(rerun(kept, progress=False)) == np.asarray(im)).all(), name
        given = guidance(name, **{k: p.default for k, p in parameters(TRANSFORMS[name]).items()})
        kept = save_image(im, recipe('a red cone', given, pieces, steps=2), tmp_path)
        assert (np.asarray(rerun(kept, progress=False)) == np.asarray(im)).all(), name
