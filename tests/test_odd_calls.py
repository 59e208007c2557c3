"Whatever a public function or class is given: it is taken, or refused by a `ValueError` that names the parameter"
import contextlib, inspect, re, signal, warnings
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import GeneratorType, SimpleNamespace as NS
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from diffusers import StableDiffusionPipeline
from diffusers.guiders import ClassifierFreeGuidance
from PIL import Image
from safetensors.torch import save_file
from cf_guidance import adapters, checks, cli, evaluation, pieces, plots, records, sampling, schedules
from cf_guidance import sweeps, transforms, widgets, worlds
from test_odd_input import ODD, WORDS

ROOMS = (checks, schedules, pieces, plots, transforms, worlds, sampling, records, adapters, sweeps, evaluation, widgets,
         cli)
MORE = {**ODD, 'many': 10**12, 'below 0': -1, 'zero': 0, 'a half': .5, 'no tuple': (), 'a pair': (1, 'x'),
        'objects': [object()], 'a path': Path('nowhere/at/all'), 'a tensor': torch.ones(3),
        'holes': np.full((2, 3), np.nan), 'a function': lambda: None, 'lists in lists': [[[]]]}

def public():
    "Every public name that can be called, but those that are held to the same law as a curve, a rule or its transform"
    done = {id(f) for f in (*schedules.CURVES.values(), *transforms.RULES.values(), *transforms.TRANSFORMS.values())}
    for room in ROOMS:
        for name in room.__all__:
            f = getattr(room, name)
            if callable(f) and id(f) not in done and inspect.signature(f).parameters:
                done.add(id(f))
                yield name, f

# of two rooms the first: `evaluation.search` runs a `Search`, and the `Search` is held to the law
PUBLIC = dict(reversed([*public()]))

def tensor(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def made_world(folder):
    "What plain calls are given, by the name of the parameter; each is made once"
    w = NS(folder=folder, mix=worlds.trees(2, 1), tfm=transforms.guidance('cfg', g=3))
    w.pieces = worlds.toy_pieces(w.mix)
    w.scheduler = pieces.get_scheduler('ddim', w.pieces.scheduler.config)
    w.scheduler.set_timesteps(2)
    w.course = sampling.begin_run(w.pieces, 'ddim', 2)
    w.runs = [sampling.Run('oak', w.tfm)]
    w.scripts = [sampling.script(r, w.course.steps) for r in w.runs]
    w.step = schedules.Step(0, 2, sigma=2., a=.4, b=.9, x=tensor(2, 4, 8, 8), space='epsilon', timestep=999)
    w.image = Image.new('RGB', (32, 32), 'red')
    w.pixels = np.stack([np.full((32, 32, 3), k, np.uint8) for k in (3, 200)])
    w.recipe = records.recipe('oak', w.tfm, w.pieces, steps=2, sampler='ddim')
    sweep = sweeps.Sweep(prompt=['oak', 'elm'], seed=[1, 2], schedule=[1, 3], steps=2, sampler='ddim')
    sweep.run(folder, pieces=w.pieces, progress=False)
    w.sweep, w.cells, w.swept = sweep, sweep.cells, records.sweep_cells(folder)
    w.png = w.swept[0]['file']
    w.recorded = transforms.Recorded(w.tfm)
    w.latents = sampling.sample_latents('oak', w.recorded, w.pieces, seeds=[1], steps=2, sampler='ddim', progress=False)
    w.small = pieces.get_sd_pieces('shapes-weak', device='cpu')
    w.pipe = adapters.as_pipeline(w.small)
    w.engine = adapters.HostedEngine(w.pipe, sampling.Settings(steps=1))
    w.engine.begin()
    w.loop = sweeps.engine_of(w.pieces, sampling.Settings(steps=2, sampler='ddim'))
    with adapters.guided(w.pipe, w.tfm) as w.host: w.drawn = w.pipe('oak', num_inference_steps=1).images[0]
    save_file({'weight': torch.zeros(1)}, file := folder.parent/'one.safetensors')
    w.one_file = str(file)
    made = dict(prompt='a red star', tfm=w.tfm, pieces=w.small, steps=1, sampler='ddim')
    w.small_png = records.save_image(Image.new('RGB', (32, 32)), records.recipe(**made), folder.parent/'small')
    w.flat = lambda images: np.asarray(images).reshape(len(images), -1)[:, :3].astype(float)
    w.score = lambda images, prompts: [dict(all=True) for _ in images]
    w.report = evaluation.evaluate(folder, features=w.flat, score=w.score)
    w.numbers = np.random.default_rng(0).normal(size=(16, 2))
    w.scores = {(p, s): float(s + len(p)) for p in ('a', 'bb', 'ccc') for s in (1, 2)}
    w.estimate = evaluation.Estimate(1.)
    w.displaced = evaluation.displaced(w.tfm, 'oak', w.pieces, seeds=[1], steps=1, sampler='ddim')
    w.shine, w.opens = (lambda images, prompts: images.amax((1, 2, 3))), (lambda given: (given, w.shine))
    w.floats, w.listed = torch.rand(2, 3, 32, 32), folder.parent/'listed'
    w.listed.mkdir()
    w.image.save(w.listed/'a.png')
    (w.listed/'prompts.txt').write_text('a red star')
    w.shown = evaluation.score_folder(w.listed, 'verifier', progress=False)
    w.rows = [dict(prompt=p, seed=s, schedule=g, merit=float(s + g)) for p in 'abc' for s in (1, 2) for g in (1, 3)]
    w.found, w.found_here = evaluation.compare_scores(w.rows, 'merit'), evaluation.arranged(w.shown)
    w.mine, w.table = folder.parent/'my.py', folder.parent/'table.csv'
    w.mine.write_text('def shine(images, prompts): return images.amax((1, 2, 3))')
    w.table.write_text('file_name,shine\na.png,.5\n')
    where = lambda images, prompts: (1 - images[:, 0]).mean(1)@torch.arange(32.)
    here = evaluation.race_cells(w.pieces, 'ddim', 2)
    how = dict(constants=(2, 3), noises=2, features='', progress=False)
    w.race = evaluation.race(['cosine', 'linear'], (['oak'], ['elm']), here, where, .01, folder.parent/'race', **how)
    seen = lambda s: {('oak', k): float(s + k) for k in (1, 2)}
    w.board = {('here', a, s): seen(s) for a in ('best constant', 'a') for s in range(3)}
    w.steps = {('here', 'constants', s): seen(s) for s in range(2)}
    w.standing, w.arm = evaluation.Standing('a', .1, .1), evaluation.RaceArm('a', w.tfm)
    w.searched = dict(space='linear', score=w.shine, prompts=['a red star', 'a blue star', 'a red ring', 'a blue ring'],
        sampler='ddim', pipe=w.small, steps=1, trials=2, constants=(1.5, 4), folder=folder.parent/'search',
        progress=False)
    w.search = evaluation.search(**w.searched)
    w.told = vars(w.search)
    names = 'add_wrapper_with_key', 'remove_wrappers_with_key', 'set_additional_models'
    does = dict.fromkeys(names, lambda *args: None)
    w.comfy_model = NS(clone=lambda: w.comfy_model, **does)
    w.text_file = folder/'prompts.txt'
    w.text_file.write_text('oak\nelm\n')
    return w

def by_name(w):
    "What a parameter of this name is given, where its function says nothing else"
    return dict(
        pieces=w.pieces, mix=w.mix, tfm=w.tfm, guide_tfm=w.tfm, scheduler=w.scheduler, course=w.course, runs=w.runs,
        run=w.runs[0], step=w.step, image=w.image, images=w.pixels, recipe=w.recipe, r=w.recipe, folder=w.folder,
        path=w.png, cells=w.cells, cell=w.swept[0], u=tensor(2, 4, 8, 8), t=tensor(2, 4, 8, 8, seed=1),
        pred=tensor(2, 4, 8, 8, seed=2), x=tensor(2, 4, 8, 8, seed=3), a=.4, b=.9, g=3., sched=3., schedule=3.,
        text='oak', prompt='oak', prompts=['oak'], steps=2, n=2, name='name', title='title', report=w.report,
        made=w.numbers, real=w.numbers + .1, features=w.numbers, self=w.mix, latents=w.latents, vae=w.pieces.vae,
        unet=w.pieces.unet, texts=['oak', 'elm'], size=(1, 1), schedules=[1., 2.], given='oak', sigmas=(2., 1.),
        timestep=999, scale=2., maker=schedules.CURVES['cosine'], sampler='ddim', dtype=torch.float64,
        said=w.scripts[0], scripts=w.scripts, calls=[0, 1], rows=w.recorded.rows, vals=[1., 2.], program='a1111',
        rng=np.random.default_rng(0), failed=[], bad=['why'], former={}, image_id='1'*16, axis='schedule',
        settings=sampling.Settings(steps=2, sampler='ddim'), how='grid', transform='cfg', words='oak',
        names=['elm', 'oak'], cls=transforms.GuidanceTfm, rule=transforms.cfg)

def calls(w):
    "What each public function is given besides; `needed` gives the rest by name"
    return dict(
        # checks
        whole=dict(val=1, lo=0, hi=2), number=dict(val=1), positive=dict(val=1), Usual=dict(lo=0, hi=1),
        Scale=dict(lo=0, hi=1), StepCount={}, kind_of=dict(annotation=int), between=dict(val=1, lo=0, hi=2),
        above_zero=dict(val=1), known_path=dict(val='x'),
        # schedules
        Step=dict(idx=0, n=2), curve_name=dict(name='cosine'), curve_maker=dict(name='cosine'), as_text=dict(val=1.),
        Schedule=dict(name='constant', args=(('val', 1.),)), lift=dict(x=3.), nominal_sigmas={}, nominal_timesteps={},
        preview_values=dict(sched=schedules.cosine()), picture=dict(sched=schedules.cosine()), get_cos_sched={},
        read_json=dict(text='{}'), to_json=dict(self=schedules.cosine()),
        from_json=dict(text=schedules.cosine().to_json()), typed=dict(text='7.5*pos'), per_frame=dict(frames=3),
        what_is_wrong=dict(e=SyntaxError('x'), text='x'),
        frame_shape=dict(shape=(2, 3, 4)), known_preset=dict(name='sdxl'), preset=dict(name='sdxl'),
        Preset=dict(model='x', schedule='5', steps=2, source='y'),
        # pieces
        compile_model=dict(model=w.small), compiled_as=dict(model=w.small),
        Pieces=w.pieces._asdict(), is_here=dict(name='scenes'), known_device=dict(device='cpu'),
        text_remarks={},
        get_sd_pieces=dict(model_name='shapes-weak', device='cpu'), text_length={}, text_embeddings={},
        images_from_latents={}, image_from_latents={}, check_pieces={}, latent_size={},
        scheduler_class=dict(name='DDIMScheduler'), sampler_text={}, get_scheduler=dict(config=w.scheduler.config),
        scalings=dict(timestep=w.scheduler.timesteps[0]), Pixels={}, init_image={},
        known_strength=dict(strength=.5, images=[w.image]),
        check_image=dict(image=pieces.Pixels(w.image), size=(32, 32)), encode_image=dict(pieces=w.small),
        Embedded=dict(embeds=tensor(3, 4)), embedding=dict(text=pieces.Embedded(tensor(3, 2))), count_tokens={},
        read_prompts=dict(path=w.text_file), text_at={}, check_words={}, words_at={}, FlowUNet={}, as_flow={},
        # plots
        set_look=dict(ax=plt.gca()), axes_for=dict(ax=None, rows=1, cols=1, figsize=(1, 1)),
        plot_schedule=dict(ax=plt.gca()), plot_schedules={}, image_grid=dict(ax=[plt.gca()]*2),
        axes_grid=dict(cells=[dict(image=w.image, g=1, seed=1)], x='g', y='seed', ax=plt.gca()),
        plot_trajectory=dict(what='g', ax=plt.gca()), show_image={},
        # transforms
        tells=dict(space='epsilon'), convert=dict(src='epsilon', dst='sample'), match_norm={}, matched_scale={},
        rule_params={}, parameters={}, rule_name={}, known_of={}, noise_share={}, defaults={}, options={}, space_of={},
        axis_of={},
        needs_of={}, put_together=dict(preds=dict(u=tensor(2, 4, 8, 8), t=tensor(2, 4, 8, 8))), how_of=dict(name='u'),
        nested_tfms={}, guided_wide={}, along=dict(onto=tensor(2, 4, 8, 8)), main_part={}, recfg_ratio={},
        low_part={}, soft_part={}, high_waves={}, weigh_waves=dict(d=tensor(2, 4, 8, 8)),
        feedback_evidence=dict(after=tensor(2, 4, 8, 8), s=2., s2=1.),
        feedback_terms=dict(pi=.9, t0=.5, t1=.4), instead=dict(modules=[torch.nn.Linear(1, 1)], make=lambda f, k: f),
        PerturbedAttention={}, blur_tokens=dict(q=tensor(2, 16, 3), h=4, w=4, blur=1.), SmoothedAttention={},
        SkippedLayers={}, DroppedLayers={}, WeakModel={}, RandomCondition={}, PerturbedTime={}, OtherText={},
        normalised=dict(to=tensor(2, 4, 3), away=tensor(2, 4, 3)), NormalisedAttention={},
        weak_network={}, NoisyCondition=dict(gamma=.5, s=.1, psi=1.), guidance=dict(name='cfg'), measure={},
        transform_class=dict(transform='rescale(phi=.5)'), checked_schedule=dict(schedule='cosine'),
        Recorded={}, plot_record=dict(ax=plt.subplots(2, 2)[1]), no_effect=dict(what='this'), unheard={},
        chosen_options=dict(given={}), bare_network=dict(net=w.small.unet), is_attention=dict(m=w.small.unet),
        is_block=dict(m=w.small.unet), named_layers=dict(net=w.small.unet, kind=transforms.is_block, layers='mid'),
        known_time=dict(timestep=3),
        # worlds
        Mixture=dict(means=[[0., 0.], [1., 1.]], covs=1., labels=['a', 'b']), class_index=dict(name='oak'),
        log_prob=dict(x=tensor(3, 2)), parts=dict(x=tensor(3, 2)), posterior=dict(x=tensor(3, 2)),
        denoise=dict(x=tensor(3, 2)), sample={}, moments={}, trees=dict(depth=1), blurred=dict(width=1.),
        part_shares=dict(x=tensor(3, 2)), coverage=dict(x=tensor(3, 2)),
        energy_distance=dict(x=tensor(3, 2), y=tensor(4, 2)), plot_density=dict(ax=plt.gca()),
        plot_samples=dict(x=tensor(3, 2), ax=plt.gca()), plot_push=dict(sigma=1., ax=plt.gca()),
        plot_paths=dict(paths=tensor(3, 4, 2), ax=plt.gca()), ToyTokenizer={}, ToyTextEncoder={}, ToyUNet={},
        ToyVAE={}, toy_pieces={},
        linear_end=dict(mix=worlds.Mixture([[0., 0.], [1., 1.]], 1., ['a', 'b']), given='a', negative='b',
            scales=[3., 3.]),
        with_article={}, held_out_pairs=dict(colours=['a', 'b', 'c'], shapes=['d', 'e']),
        Demand=dict(shapes=('star',), colours=('red',)), parse=dict(prompt='a red star'),
        Prompt=dict(kind='one', held_out=False),
        best_match=dict(seen=worlds.parse('a red star'), asked=worlds.parse('a red star'), names=('shape', 'colour'),
            opposite={}),
        judge=dict(seen=worlds.parse('a red star'), asked=worlds.parse('a red star')), search={}, read={},
        features={}, SceneDemand=dict(things=(('cube', 'red', '', ''),)), parse_scene=dict(prompt='a red cube'),
        ScenePrompt=dict(kind='one', held_out=False), scene_features=dict(images=w.pixels.repeat(2, 1).repeat(2, 2)),
        read_scenes=dict(images=w.pixels.repeat(2, 1).repeat(2, 2)), world_of=dict(prompt='a red star'),
        ideal=dict(prompt='a red star'),
        judge_scene=dict(seen=worlds.parse_scene('a red cube'), asked=worlds.parse_scene('a red cube')),
        image_features={}, score_scenes=dict(images=w.pixels.repeat(2, 1).repeat(2, 2), prompts='a red cube'),
        score_images=dict(prompts='a red star'),
        # sampling
        Course=w.course._asdict(), call_steps={}, first_of_each=dict(what=[9, 8]),
        as_levels=dict(shares=[(.4, .9, 'epsilon')]), run_sigmas={}, sampler_breaks=dict(step=0, why='so'),
        scaled_input={}, begin_run={}, begin_again={}, draws={}, take_rows=dict(rows=[0], shape=(1, 2, 1, 1)),
        fork=dict(gens=[torch.Generator()], rows=[0]), Settings={}, start_noise=dict(seed=1), Run={}, reads={},
        unheard_of={}, script=dict(steps=w.course.steps), in_batches=dict(f=lambda part: 0, most=2), all_texts={},
        embed={}, Wave=dict(words=sampling.embed(w.runs, w.pieces)),
        not_finite=dict(preds=dict(u=tensor(2)*np.nan), made=tensor(2)),
        sample_latents=dict(seeds=[1], steps=1, sampler='ddim', progress=False),
        generate=dict(steps=1, sampler='ddim', progress=False), Traced={},
        # records
        library_version=dict(root='torch'), sound_recipe={}, known_sampler={}, known_recipe=dict(given=('pieces',)),
        export_schedule={}, to_infotext={}, recipe=dict(steps=2, sampler='ddim'), what_counts={}, uncalled={},
        image_id={}, remove_abandoned={}, note_rows={}, save_image={}, looked_at={}, read_record={}, read_recipe={},
        write_image=dict(path=w.folder.parent/'written.png'),
        read_frames={}, strip_of=dict(frames=[w.image]*2), frame_size=dict(size=(32, 32), frames=1), frames_in={},
        clip_file={}, write_clip=dict(frames=[w.image]*2), is_large={}, thumbnail_file={}, write_thumbnail={},
        renew_thumbnail={}, old_thumbnails={},
        write_metadata={}, open_folder={}, former_images={}, place_of={}, image_path={}, kept_file={}, made_image={},
        add_failures={}, write_failures={}, rerun=dict(path=w.small_png, pieces=w.small, progress=False),
        found_cells={}, read_cells={}, left_out_words={}, sweep_cells={}, sweep_failures={}, axis_value={},
        sweep_axes=dict(cells=w.swept), in_order=dict(vals=[2, 1]), write_viewer={}, renew_viewer={},
        # adapters
        HostedEngine=dict(pipe=w.pipe), HostedPlan=dict(engine=w.engine), LoopEngine={}, Memo={},
        SharingHost=dict(pipe=w.pipe, memo=adapters.Memo(0)), is_pipeline=dict(model=w.pipe),
        tensor_bytes=dict(x=tensor(2)),
        digest=dict(x=[1]), takes=dict(pipe=w.pipe), known_call=dict(pipe=w.pipe, call={}), told_call=dict(call={}),
        read_call=dict(told=[1]), layout_of=dict(name='shapes-weak'), precision_of={}, loaded_by=dict(pipe=w.pipe),
        pipeline_fingerprint=dict(pipe=w.pipe), call_recipe=dict(host=w.host, image=w.drawn),
        save_call=dict(host=w.host, image=w.drawn, path=w.folder.parent/'called.png'),
        config_of=dict(path=w.one_file, config='owner/name'), is_single_file=dict(name=w.one_file),
        load_pieces=dict(name='shapes-weak', device='cpu'),
        load_pipeline=dict(name='shapes-weak', device='cpu', local=True),
        Host=dict(pipe=w.pipe), as_pipeline=dict(cls=StableDiffusionPipeline),
        HostRun=dict(times=[1], calls=[0], sigmas=(1.,), firsts=(1,)), as_data={},
        from_data=dict(data=adapters.as_data(w.tfm)), host_run=dict(call=0), ScheduledGuider={},
        from_diffusers=dict(guider=ClassifierFreeGuidance()), to_diffusers={}, guidance_callback={},
        step_at=dict(sigma=1.), GuidedDenoiser=dict(model=lambda x, sigma, cond: x), PiecesDenoiser={},
        guided_model=dict(model=w.comfy_model),
        # sweeps
        engine_of=dict(model=w.pieces), pages_of=dict(sweep=w.sweep),
        grid_points=dict(axes=dict(a={'1': 1, '2': 2})), usual_g={}, count_calls={},
        count_waves=dict(waves=[[0]]), Plan={}, duration=dict(s=3.),
        Cell={}, kept_folder={}, missing={}, fill=dict(progress=False, images=sweeps.Plan.images), cos_harness={},
        minimum_pairs=dict(sweep=dict(max_val=[1, 2])),
        run=dict(schedules=[dict(schedule=3., title='3')], guide_tfm=transforms.GuidanceTfm, pieces=w.pieces, steps=1,
            sampler='ddim', progress=False),
        Sweep=dict(prompt='oak', steps=1), Gallery=dict(prompt='oak', steps=1),
        # evaluation
        groups_of=dict(rows=1), fewest_groups=dict(level=.95),
        Estimate=dict(value=1.), mean_interval=dict(values=[1., 2.], prompts=['a', 'b']),
        bootstrap=dict(stat=lambda rows: 1., prompts=['a', 'b']),
        jackknife=dict(stat=lambda rows: 1., prompts=['a', 'b']),
        Comparison=dict(effect=w.estimate, wins=1, losses=0, ties=0, sign=.5, wilcoxon=.5, between=.1, within=.1),
        variances=dict(scores=w.scores), compare=dict(a=w.scores, b={k: v + 1 for k, v in w.scores.items()}),
        paired=dict(a=w.scores, b=w.scores), Paired=dict(diffs={('a', 1): 1.}, scale=1.),
        sign_flip=dict(values=[1., 2.]),
        Flips=dict(p=.5, differ=2), max_t=dict(methods=dict(m=w.scores), base=w.scores, times=99),
        difference=dict(a=w.scores, b=w.scores), tost=dict(a=w.scores, b=w.scores, margin=.1),
        verdict=dict(a=w.scores, b=w.scores), Designed=dict(value=1.), design_of=dict(scores=w.scores),
        Verdict=dict(words='better', effect=w.estimate, inner=w.estimate, margin=.1),
        interval_by_design=dict(scores=w.scores),
        against=dict(prompts=['a', 'b']*8, k=2),
        nearer=dict(other=w.numbers + .2, prompts=['a', 'b']*8, other_prompts=['a', 'b']*8, k=2),
        Displaced={}, displacement=dict(record=w.displaced), aside=dict(record=w.displaced),
        displaced=dict(pieces=w.pieces, prompts='oak', seeds=[1], steps=1, sampler='ddim'),
        sideways=dict(tfms=dict(a=w.tfm), pieces=w.pieces, prompts='oak', seeds=[1], steps=1, sampler='ddim'),
        strength_of=dict(pieces=w.pieces, prompts='oak', seeds=[1], steps=1, sampler='ddim'),
        holm=dict(ps=dict(a=.1)), how_many=dict(effect=.1, between=.1, within=.1), image_array={}, saturation={},
        contrast={}, clipped={}, thumbnail={}, extract=dict(features=w.flat), frechet={}, frechet_points={},
        frechet_infinity={}, kid={}, prdc={}, vendi={}, colours=dict(prompts=['a', 'b']),
        diversity=dict(prompts=['a', 'b']*8), distances=dict(prompts=['a', 'b']*8, k=2),
        accuracy=dict(rows=[dict(all=True)]*2, prompts=['a', 'b']), effective_guidance={}, Effective={},
        equal_constant=dict(pieces=w.pieces, prompts='oak', seeds=[1], steps=1, sampler='ddim'), scaled=dict(by=2.),
        match_strength=dict(target=2.), Value=dict(images=1, figures={}, scores={}),
        Report=dict(values=[], baseline='a', against={}, notes=[]), evaluate=dict(features=w.flat, score=w.score),
        plot_tradeoff=dict(ax=plt.gca(), x='saturation', y='contrast'), report_text={}, report_html={},
        Score=dict(rate=w.shine), Known=dict(opens=w.opens, says='x', lo=0., hi=1., higher=True, needs=''),
        named_score=dict(says='x'), describe=dict(name='verifier'), as_uint8=dict(images=w.floats),
        hub_size=dict(name='nobody/nothing'), elsewhere=dict(names='hpsv2'), TableScore=dict(rate=w.shine),
        function_score=dict(text=f'{w.mine}:shine'), table_scores=dict(text=str(w.table)),
        find_scores=dict(scores='verifier'), one_score=dict(score='verifier'),
        Row=dict(name='a.png', prompt='oak', state='1 2 ab'), read_scores={},
        add_scores=dict(rows=[evaluation.Row('a.png', 'oak', '1 2 ab')], folder=w.listed),
        tidy_scores=dict(folder=w.listed),
        Features=dict(take=lambda images: images[:, :, 0, 0]), find_features=dict(name='world'), read_words={},
        Picture=dict(path=Path('a.png'), prompt='oak'), open_pixels={}, found_pictures={}, pictures={},
        batches=dict(pictures=w.shown), score_folder=dict(scores='verifier', folder=w.listed, progress=False),
        score_means=dict(pictures=w.shown), means_text=dict(means=evaluation.score_means(w.shown)),
        folder_features=dict(pictures=w.shown, features=evaluation.find_features('world')),
        Arranged=dict(axes=('schedule',), pairs=('prompt',), values={}, methods={}), arranged=dict(shown=w.shown),
        nearest_constants=dict(found=w.found.found, pushes=dict.fromkeys(w.found.found.methods, 1.)),
        constants=dict(found=w.found.found), baseline_of=dict(found=w.found.found),
        Held=dict(words='better', verdict=evaluation.verdict(w.scores, w.scores), p=.5, how='exact', corrected=.5,
            diffs={}),
        Compared=dict(score='merit', higher=True, found=w.found.found, baseline='1', margin=.1, means={}, against={}),
        compare_scores=dict(shown=w.rows, score='merit'), compared_text=dict(res=w.found),
        method_diversity=dict(found=w.found_here, features=evaluation.find_features('world')),
        plot_forest=dict(res=w.found, ax=plt.gca()), plot_quality=dict(res=w.found, varied={}, ax=plt.gca()),
        RaceArm={}, read_arms=dict(arms=['cosine', 'apg']),
        RaceCell=dict(model=w.pieces), race_cells=dict(model=w.pieces),
        arms_by_steps=dict(arms=['cosine', 'apg'], cells=evaluation.race_cells(w.pieces, 'ddim', [2, 3])),
        read_prompt_sets=dict(prompts=(['a'], ['b'])), pairs_of=dict(prompts=['a', 'b']),
        RacePlan=dict(rounds=((2, 6),), report=6, noises=2, calibration=6), race_plan=dict(arms=4, reporting=6),
        push_of=dict(engine=w.loop, prompts=['oak'], seeds=[1]),
        matched_factors=dict(push=lambda k: 2*k, targets=[3.]), Calibrated=dict(cell='here', arm='a', kind='matched'),
        calibrate=dict(arm=w.arm, cell='here', engine=w.loop, targets=[3.], prompts=['oak'], seeds=[1]),
        left_out=dict(cell='here', arm='a', error=MemoryError('full')),
        settings_of=dict(arm=w.arm, made=evaluation.Calibrated('here', 'a', 'matched', (1., 2.))),
        best_scale=dict(table=w.steps, cell='here', scales=(2., 3.)), Standing=dict(arm='a', effect=.1, error=.1),
        standings=dict(table=w.board, arms=dict(a=False), cells=['here']), survivors=dict(found=[w.standing], keep=1),
        Reading=dict(weights=(0., 1., 0.)), read_at=dict(varied=[1., 2.], target=1.5),
        RaceReport=dict(pooled=w.found, cells={}, reads={}, everywhere={}, words={}, notes=[]),
        race_report=dict(table=w.board, diversity={}, arms=dict(a=1), cells=['here']),
        better_by=dict(report=w.race.report, arm='cosine'), race_report_text=dict(report=w.race.report),
        RaceLog=dict(folder=w.race.folder, info=w.race.info),
        Race=dict(info={}, constants={}, calibrated={}, rounds=[], report=w.race.report, images=1),
        read_race=dict(folder=w.race.folder), race_text=dict(race=w.race), check_images=dict(folder=w.race.folder),
        score_html=dict(results=[w.found]), score_pictures=dict(pictures=w.shown, scores='verifier', folder=w.listed,
            progress=False),
        Span=dict(lo=1., hi=2.), Arm=dict(schedule=3.),
        Space=dict(kind='curve', spans=dict(start=evaluation.Span(1., 2.)), fixed=dict(linear={})),
        curve_space=dict(name='linear'), spline_space={}, interval_space={}, steps_space=dict(steps=3),
        transform_space=dict(name='rescale'), typed_space=dict(text='linear'), Found=w.told, Search=w.searched,
        plot_search=dict(found=w.search), found_text=dict(found=w.search), search_html=dict(found=w.search),
        save_search=dict(found=w.search),
        # widgets
        curve_engine=dict(table=widgets.page_table(['linear'])),
        numbers=dict(text='1, 2'), parameter_controls={}, decimals=dict(c=dict(default=1., lo=0., hi=2.)),
        legend_html=dict(curve='g'), methods_like={}, MethodMenu={}, Remembered={},
        menu_groups={}, first_line={}, curve_svg={}, guidance_line={}, network_calls=dict(steps=w.course.steps),
        unit_mismatch={},
        control_widget=dict(c=widgets.parameter_controls(schedules.CURVES['cosine'])[0], changed=lambda _: None),
        drawing_pad=dict(read=lambda: [1.], put=lambda vals: None), says_html={},
        Stop=dict(latest=widgets.Latest(), number=0), Picker={}, thinned={}, Film={},
        film=dict(steps=1, sampler='ddim'), image_html=dict(alt='red'), words_html={},
        ScheduleExplorer=dict(images=False), wipe=dict(a=w.image, b=w.image), cell_html={}, SweepBrowser={},
        js_name={}, js_json=dict(x=1), js_function=dict(f=schedules.CURVES['linear'].curve, done={}, top='linear'),
        to_js=dict(f=schedules.CURVES['cosine']), page_table=dict(curves=['linear']),
        explorer_page=dict(curves=['linear']),
        # cli
        parse_values=dict(text='1, 2'), parse_params=dict(text='a=1'), experiments={}, explorer_notebook={},
        cfg_eval=dict(folder=str(w.folder)), write_whole=dict(path='file', write=lambda f: f.write(b'x')))

def named(f):
    "The parameters that have a name of their own"
    params = inspect.signature(f).parameters.items()
    return {k: p for k, p in params if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}

def needed(f, own, names):
    "What a plain call gives: what is said of the function, and by name what has no default"
    bare = [k for k, p in named(f).items() if p.default is p.empty]
    return {**{k: names[k] for k in bare if k not in own}, **own}

def done(f, given):
    "Call to the end: a block is opened, and what comes one by one is asked for"
    res = f(**given)
    if isinstance(res, AbstractContextManager) and hasattr(res, 'gen'):
        with res: pass
    if isinstance(res, GeneratorType):
        for _ in res: pass

# what says which parameter it is without its name
TOLD = (
    *WORDS, '`fn` must take a position', '`given` must be one of', 'there must be something to draw',
    'an image must be', 'a column of the cells must be', 'predictions must have an image plane', 'cannot be saved',
    'parameters must be like', 'values must be numbers', '`prompt` must use the words of this world')
# what is checked by the name that it has inside
ALSO = dict(
    count_tokens=dict(texts='prompt_embeds'), get_sd_pieces=dict(scheduler='sampler'), lift=dict(x='schedule'),
    Embedded=dict(embeds='prompt_embeds'),
    read_prompts=dict(path='prompts'), convert=dict(src='space', dst='space'), sample_latents=dict(seeds='prompts'),
    Sweep=dict(schedule='g', negative_prompt='prompts'), put_together=dict(preds='u'),
    image_grid=dict(schedules='sched'), plot_schedules=dict(schedules='sched'), linear_end=dict(sigmas='scales'),
    mean_interval=dict(values='prompts'),
    accuracy=dict(rows='prompts'), variances=dict(scores='prompts'), distances=dict(prompts='made'),
    ScheduledGuider=dict(tfm='data'), host_run=dict(timestep='pipe'), sound_recipe=dict(recipe='prompt'),
    Memo=dict(most='memo_bytes'), layout_of=dict(name='model'), config_of=dict(path='model'),
    load_pieces=dict(name='model_name'),
    load_pipeline=dict(name='model'), engine_of=dict(model='pieces'), groups_of=dict(rows='prompts'),
    max_t=dict(methods='a', base='b'), known_recipe=dict(recipe='prompt', given='pieces'),
    experiments=dict(steps='num_steps'), best_scale=dict(cell='table', scales='table'),
    Space=dict(spans='space'), typed_space=dict(text='space'),
    transform_space=dict(name='transform'),
    Search=dict(features='name', other_sampler='sampler', other_model='pipe', held_out='prompts'))

CALLED = 'callback', 'warn', 'tfm'                      # functions that are not given in a plain call

# public names that are not called here, and parameters of others
EXEMPT = {
    'they say which checks there are, and stand in the code':
        'kind a_count made_of list_of dict_with one_of any_of or_none look_at checked renamed near',
    'they are the checks':
        'a_text a_word a_pipeline a_maker a_flag a_dict a_list a_function a_number a_whole a_model a_scheduler '
        'anything a_transform a_class a_tensor a_real a_network a_vae a_rng a_pair a_value a_level a_time a_picture '
        'an_image an_axes a_file texts some_numbers some_levels some_names two_counts two_sides',
    'what it is given is written in the code that is checked': 'rule in_run generator_of close_widgets',
    'curves call it at each step with what they have checked, and the page translates it': 'cosine_wave steps_of',
    'a sampler calls it at each step with what it counts itself': 'lms_coefficient',
    'it is the call of the network, which says what it cannot take': 'plain_pass',
    'it is a `Host` in a block, and the `Host` is held to the law': 'guided',
    'its `TypeError` is the answer: what is not plain cannot be told': 'code_identity',
    'anything that does something has a mark': 'code_mark',
    'a cluster would start where a value is taken; tests/test_cluster.py': 'ray_images',
    'a transform calls it at a step with what it has checked; tests/test_odd_input.py':
        'acting_at call_by_name is_blind keep_at kept_at kept_before kept_in pole_of state_at turn_of turned',
    'a plan calls it with the numbers of its runs': 'by_trunk',
    '`rerun` calls it with a recipe that it has checked': 'rerun_hosted',
    'it takes the texts of a command line, below': 'cfg_sweep cfg_explore cfg_race cfg_search',
    'they make images of a folder again; nbs/evaluation/07c_equal_push.ipynb': 'folder_pushes compare_at_one_push',
    'it makes the images of a race, and is held to what it refuses in nbs/evaluation/08f_race.ipynb': 'race',
}
BESIDES = {('whole', 'lo'), ('whole', 'hi'), ('between', 'lo'), ('between', 'hi'),       # of a check, as above
           ('read_json', 'text'),              # it says what `json` does, for those who name the file
           ('load_pipeline', 'compile'), ('load_pieces', 'compile'), ('get_sd_pieces', 'compile'),      # a while;
           ('compile_model', 'how')}           # tests/test_compiled.py
# no plain call: it would register what it is given, or look at all prompts that there are
REFUSED_ALONE = dict(curve={}, transform={}, prompt_set={}, scene_prompts={})

def names_it(e, name, given, k):
    "Whether an error names the parameter `k`, or the one or the many that it stands for"
    known = [k, k.removesuffix('s'), k + 's', ALSO.get(name, {}).get(k)]
    if k in ('val', 'text'): known.append(given.get('name'))               # of a check, which is given the name
    return any(f'`{n}`' in str(e) or f"'{n}': " in str(e) for n in known if n) or any(w in str(e) for w in TOLD)

def judged(f, name, given, k, val, kind):
    "Nothing, or what is wrong with the way in which an odd value of the parameter `k` is refused"
    # what a function of somebody's own does when it is called is its own
    if callable(val) and (callable(given.get(k, named(f)[k].default)) or k in CALLED): return
    try: done(f, {**given, k: val})
    except ValueError as e: return None if names_it(e, name, given, k) else f'{name} {k}, {kind}: not named: {e}'[:300]
    except Exception as e: return f'{name} {k}, {kind}: {type(e).__name__}: {e}'[:300]

@contextmanager
def no_hang(what, seconds=300):
    "End what never ends: no measure of time, for whatever is here takes less than a second"
    def ring(*_): raise TimeoutError(f'{what} took more than {seconds} seconds')
    was = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    with warnings.catch_warnings(), contextlib.chdir(tmp_path_factory.mktemp('odd')), plt.rc_context():
        warnings.simplefilter('ignore')
        plt.switch_backend('agg')
        made = made_world(tmp_path_factory.mktemp('world')/'sweep')
        yield by_name(made), {**calls(made), **REFUSED_ALONE}
        plt.close('all')

def exempt(): return {name for names in EXEMPT.values() for name in names.split()}

def test_every_public_name_is_called_here_or_exempt(world):
    _, own = world
    assert {*PUBLIC} == {*own} | exempt() and not {*own} & exempt()

def odd_calls(name, own, names):
    "What is wrong with the ways in which a function refuses odd values of its parameters"
    f = PUBLIC[name]
    given = {} if name in REFUSED_ALONE else needed(f, own, names)
    if given or name not in REFUSED_ALONE: done(f, given)          # so that what is refused is the odd value
    for k in named(f):
        if k == 'self' or (name, k) in BESIDES: continue
        for kind, val in MORE.items(): yield judged(f, name, given, k, val, kind)
    plt.close('all')

@pytest.mark.parametrize('room', [room.__name__.split('.')[1] for room in ROOMS])
def test_odd_values(world, room, capsys):
    names, own = world
    shown = {name for name in PUBLIC if PUBLIC[name].__module__.split('.')[1] == room}
    wrong = []
    for name in own:
        if name not in shown: continue
        with warnings.catch_warnings(), no_hang(name):
            warnings.simplefilter('ignore')
            wrong += odd_calls(name, own[name], names)
    assert [w for w in wrong if w] == []

# what a command line may ask for and nobody would do: each is refused by the name of what was given
UNHEARD = [
    (dict(pos_by='sigma'), '`pos_by` belongs to an initial `image`'),
    (dict(pos_by='step,sigma'), '`pos_by` belongs to an initial `image`'),
    (dict(strength='.5'), '`strength` belongs to an initial `image`'),
    (dict(sweep='prompt=hello'), '`prompt` is an axis of its own'),
    (dict(sweep='prompt=hello', schedule='5', prompt='a red star'), '`prompt` is an axis of its own'),
    (dict(sweep='schedule=5,7', schedule='3'), '`schedule` is an axis of its own'),
    (dict(sweep='schedule=5,7'), '`schedule` is an axis of its own'),
    (dict(sweep='pos_by=sigma', schedule='5'), '`pos_by` is an axis of its own'),
    (dict(sweep='self=3', schedule='5'), "`sweep` must name parameters of schedules and transforms; got 'self'"),
    (dict(sweep='how=list', schedule='5'), "`sweep` must name parameters of schedules and transforms; got 'how'"),
    (dict(schedule='7.5 # hello'), '`schedule`'), (dict(schedule='cosine # hello'), '`schedule`'),
    (dict(sweep='k_decay=.5 # hello', schedule='cosine'), "got 'k_decay=.5 # hello'"),
    (dict(base='min_val=.5', schedule='5'), '`base` belongs to the schedules of 2022'),
    (dict(workers=-1, schedule='5'), '`workers` must be a whole number, 0 or more; got -1'),
    (dict(batch_size=-3, schedule='5'), '`batch_size` must be a whole number'),
    (dict(how='nothing', schedule='5'), '`how` must be'),
]

@pytest.mark.parametrize('given, words', UNHEARD, ids=[str(given) for given, _ in UNHEARD])
def test_nothing_is_passed_over_in_silence(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        inspect.unwrap(cli.cfg_sweep)(model='shapes-weak', dry_run=True, **given)
    assert not any(tmp_path.iterdir())
